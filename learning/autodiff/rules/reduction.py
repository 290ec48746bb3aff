"""Reductions: sum, mean, max over axes."""

from __future__ import annotations

import math

import numpy as np

from learning.autodiff.graph import Tensor
from learning.autodiff.registry import Gradients, Node, rule


def _axes(n: Node) -> list[int]:
    found = n.ints(1, "axes")
    if not found:
        return [] if n.attr("noop_with_empty_axes", 0) else list(range(n.x.rank))
    return [axis % n.x.rank for axis in found]


def _keep(n: Node, tensor: Tensor, axes: list[int]) -> Tensor:
    """A reduced tensor with its reduced axes back as ones."""
    dims = [1 if axis in axes else size for axis, size in enumerate(n.x.dims)]
    return tensor if n.attr("keepdims", 1) else n.graph.reshape(tensor, dims)


def _spread(n: Node, grad: Tensor) -> Tensor:
    return n.graph.op("Expand", grad, n.graph.ints(n.x.dims))


@rule("ReduceSum")
def reduce_sum(n: Node) -> Gradients:
    return _spread(n, _keep(n, n.dy, _axes(n)))


@rule("ReduceMean", "GlobalAveragePool")
def reduce_mean(n: Node) -> Gradients:
    axes = list(range(2, n.x.rank)) if n.proto.op_type == "GlobalAveragePool" else _axes(n)
    count = math.prod(n.x.dims[axis] for axis in axes)
    return _spread(n, _keep(n, n.dy * (1.0 / count), axes))


@rule("ReduceMax", "ReduceMin", notes="tied extremes share the gradient equally, as in PyTorch's amax")
def reduce_extreme(n: Node) -> Gradients:
    axes = _axes(n)
    hit = n.graph.op("Equal", n.x, _keep(n, n.y, axes))
    mask = n.graph.cast(hit, n.x.dtype or np.float32)
    return mask * (_keep(n, n.dy, axes) / n.graph.sum(mask, axes, keep=True))


@rule("ReduceL2", notes="of nothing but zeros: zero, as in PyTorch")
def reduce_l2(n: Node) -> Gradients:
    axes = _axes(n)
    norm = _keep(n, n.y, axes)
    zero = n.graph.op("Equal", norm, n.graph.constant(np.asarray(0, n.y.dtype)))
    return n.x * (_keep(n, n.dy, axes) / (norm + n.graph.cast(zero, n.y.dtype or np.float32)))
