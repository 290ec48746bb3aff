"""Normalisations: over a layer, an instance, or with fixed statistics.

All share one formula. With x̂ = (x − μ)/σ and g = dy·scale: dx = (g − mean(g) − x̂·mean(g·x̂))/σ, means over
the axes that μ and σ were taken over; with fixed statistics the two means fall away.
"""

from __future__ import annotations

import numpy as np

from learning.autodiff.errors import AutodiffError
from learning.autodiff.graph import Tensor
from learning.autodiff.registry import Gradients, Node, rule


def _along_channels(n: Node, vector: Tensor) -> Tensor:
    """[C] as [C, 1, ...], to be broadcast over the spatial axes."""
    return n.graph.reshape(vector, [n.x.dims[1], *[1] * (n.x.rank - 2)])


def _through(n: Node, g: Tensor, normal: Tensor, inverse: Tensor, axes: list[int]) -> Tensor:
    """dx through statistics that are functions of x."""
    return inverse * (g - n.graph.mean(g, axes) - normal * n.graph.mean(g * normal, axes))


def _statistics(n: Node, axes: list[int]) -> tuple[Tensor, Tensor]:
    """x̂ and 1/σ, computed anew from x."""
    centred = n.x - n.graph.mean(n.x, axes)
    variance = n.graph.mean(centred * centred, axes)
    inverse = n.graph.op("Reciprocal", n.graph.op("Sqrt", variance + float(n.attr("epsilon", 1e-5))))
    return centred * inverse, inverse


@rule("LayerNormalization")
def layer_normalization(n: Node) -> Gradients:
    axes = list(range(int(n.attr("axis", -1)) % n.x.rank, n.x.rank))
    while len(n.proto.output) < 3:
        n.proto.output.append(n.graph.fresh("statistic"))
    mean, inverse = (Tensor(name, n.graph, None, n.x.dtype) for name in n.proto.output[1:3])
    normal = (n.x - mean) * inverse
    along = n.dy * normal
    dx = _layer_dx(n, along, normal, inverse, axes) if n.wants(0) else None
    dscale = n.unbroadcast(along, 1) if n.wants(1) else None
    return [dx, dscale, n.unbroadcast(n.dy, 2) if n.wants(2) else None]


def _layer_dx(n: Node, along: Tensor, normal: Tensor, inverse: Tensor, axes: list[int]) -> Tensor:
    """`_through` with its two means as products with the scale: mean(dy·scale) is dy·(scale/size)."""
    g, scale = n.graph, n.input(1)
    if len(axes) > 1 or scale.rank != 1:
        return _through(n, n.dy * scale, normal, inverse, axes)
    size = n.x.dims[-1]
    column = g.reshape(scale * (1.0 / size), [size, 1])
    mean = g.op("MatMul", n.dy, column)
    slope = g.op("MatMul", along, column)
    return inverse * (n.dy * scale - (normal * slope + mean))


@rule("InstanceNormalization")
def instance_normalization(n: Node) -> Gradients:
    axes = list(range(2, n.x.rank))
    normal, inverse = _statistics(n, axes)
    scale = _along_channels(n, n.input(1))
    dx = _through(n, n.dy * scale, normal, inverse, axes) if n.wants(0) else None
    return [dx, *_scale_and_shift(n, normal)]


@rule("BatchNormalization", notes="fixed statistics; batch statistics with batch_norm='train'")
def batch_normalization(n: Node) -> Gradients:
    scale = _along_channels(n, n.input(1))
    if n.attr("training_mode", 0):
        axes = [0, *range(2, n.x.rank)]
        normal, inverse = _statistics(n, axes)
        dx = _through(n, n.dy * scale, normal, inverse, axes) if n.wants(0) else None
    else:
        mean, variance = (_along_channels(n, n.input(i)) for i in (3, 4))
        root = n.graph.op("Sqrt", variance + float(n.attr("epsilon", 1e-5)))
        inverse = n.graph.op("Reciprocal", root)
        normal = (n.x - mean) * inverse
        dx = n.dy * (scale * inverse) if n.wants(0) else None
    return [dx, *_scale_and_shift(n, normal)]


def _scale_and_shift(n: Node, normal: Tensor) -> list[Tensor | None]:
    axes = [0, *range(2, n.x.rank)]
    return [
        n.graph.sum(n.dy * normal, axes) if n.wants(1) else None,
        n.graph.sum(n.dy, axes) if n.wants(2) else None,
    ]


@rule("LpNormalization", notes="p = 2")
def l2_normalization(n: Node) -> Gradients:
    if int(n.attr("p", 2)) != 2:
        raise AutodiffError(
            f"LpNormalization (node {n.proto.name!r}) with p = {n.attr('p')}: only p = 2 has a rule"
        )
    axis = [int(n.attr("axis", -1))]
    norm = n.graph.op("Sqrt", n.graph.sum(n.x * n.x, axis, keep=True) + float(np.finfo(np.float32).tiny))
    return (n.dy - n.y * n.graph.sum(n.dy * n.y, axis, keep=True)) / norm
