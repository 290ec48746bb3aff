"""Pooling windows."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from learning.autodiff.errors import AutodiffError
from learning.autodiff.graph import Tensor
from learning.autodiff.registry import Gradients, Node, rule
from learning.autodiff.rules.convolution import Window, window


def _geometry(n: Node) -> Window:
    return window(n, n.x.dims[2:], tuple(n.attr("kernel_shape")), n.y.dims[2:])


@rule("MaxPool", notes="1-D and 2-D; ties go to the first maximum, as in PyTorch")
def max_pool(n: Node) -> Gradients:
    g = _geometry(n)
    even = all(size % 2 == 0 for size in g.size)
    if g.plain and g.kernel == g.stride == (2, 2) and even:
        return _tournament(n)
    return _by_indices(n, g)


def _tournament(n: Node) -> Tensor:
    """2×2 windows: the four corners as four tensors, first maximum by a pairwise tournament, dy unpooled
    there.

    Exact on ties (≥ keeps the earlier one). MaxPool's own Indices output costs twenty times a plain MaxPool,
    so the place of the maximum is computed: with T, L, R ∈ {0, 1} for "top row wins", "left wins above",
    "left wins below", it lies (W + 1) − R − T·(W + L − R) behind the window's first cell.
    """
    g, (batch, channels, height, width) = n.graph, n.x.dims
    corners = g.op("SpaceToDepth", n.x, blocksize=2)
    a, b, c, d = g.ops("Split", corners, g.ints([channels] * 4), outputs=4, axis=1)
    left, right, top = (
        g.cast(g.op("GreaterOrEqual", first, second), np.float32)
        for first, second in ((a, b), (c, d), (g.op("Max", a, b), g.op("Max", c, d)))
    )
    place = (width + 1.0) - right - top * (float(width) + left - right)
    rows, columns = np.arange(0, height, 2)[:, None], np.arange(0, width, 2)[None, :]
    first_cell = (rows * width + columns).reshape(1, 1, height // 2, width // 2)
    plane = (np.arange(batch * channels) * height * width).reshape(batch, channels, 1, 1)
    within = g.op("Add", g.cast(place, np.int64), g.constant(first_cell.astype(np.int64)))
    indices = g.op("Add", within, g.constant(plane.astype(np.int64)))
    return g.op("MaxUnpool", n.dy, indices, kernel_shape=[2, 2], strides=[2, 2])


def _by_indices(n: Node, g: Window) -> Tensor:
    """Any window: MaxPool tells where each maximum was; dy is scattered there."""
    if int(n.attr("storage_order", 0)):
        raise AutodiffError(f"MaxPool (node {n.proto.name!r}) with column-major indices has no gradient rule")
    if len(n.proto.output) < 2:
        n.proto.output.append(n.graph.fresh("indices"))
    indices = Tensor(n.proto.output[1], n.graph, n.y.dims, np.dtype(np.int64))
    total = math.prod(n.x.dims)
    zeros = n.graph.zeros([total], n.x.dtype)
    overlap = any(s < e for s, e in zip(g.stride, g.extent, strict=True))
    scattered = n.graph.op(
        "ScatterElements",
        zeros,
        n.graph.reshape(indices, [-1]),
        n.graph.reshape(n.dy, [-1]),
        axis=0,
        reduction="add" if overlap else "none",
    )
    return n.graph.reshape(scattered, n.x.dims)


@rule("AveragePool", notes="1-D and 2-D; with and without padding in the count")
def average_pool(n: Node) -> Gradients:
    g = _geometry(n)
    channels, cells = n.x.dims[1], math.prod(g.kernel)
    counts = _counts(g, bool(n.attr("count_include_pad", 0)))
    if (
        g.plain
        and g.kernel == g.stride
        and all(o * k == s for o, k, s in zip(g.out, g.kernel, g.size, strict=True))
    ):
        return _repeat(n, n.dy * (1.0 / cells), g)
    shared = n.dy * n.graph.constant((1.0 / counts).astype(n.x.dtype or np.float32))
    ones = n.graph.constant(np.ones([channels, 1, *g.kernel], n.x.dtype))
    # A last window that hangs over the edge (ceil_mode) makes the transposed convolution too long: cut it
    # off.
    rest = [
        size - (s * (o - 1) + e - b - a)
        for size, s, o, e, b, a in zip(g.size, g.stride, g.out, g.extent, g.before, g.after, strict=True)
    ]
    attributes: dict[str, Any] = {**g.attributes(), "output_padding": [max(0, r) for r in rest]}
    spread = n.graph.op("ConvTranspose", shared, ones, group=channels, **attributes)
    if any(r < 0 for r in rest):
        spread = n.graph.slice(spread, [0] * g.rank, list(g.size), list(range(2, 2 + g.rank)), [1] * g.rank)
    return spread


def _repeat(n: Node, dy: Tensor, g: Window) -> Tensor:
    """Windows that tile the input: every cell gets its window's share."""
    lead = list(n.x.dims[:2])
    ones = list(itertools.chain.from_iterable((o, 1) for o in g.out))
    full = list(itertools.chain.from_iterable(zip(g.out, g.kernel, strict=True)))
    wide = n.graph.op("Expand", n.graph.reshape(dy, [*lead, *ones]), n.graph.ints([*lead, *full]))
    return n.graph.reshape(wide, n.x.dims)


def _counts(g: Window, include_pad: bool) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Cells each window averages over, shape [1, 1, *out]."""
    total = np.ones([1, 1, *[1] * g.rank])
    for axis in range(g.rank):
        low, high = (-g.before[axis], g.size[axis] + g.after[axis]) if include_pad else (0, g.size[axis])
        start = np.arange(g.out[axis])[:, None] * g.stride[axis] - g.before[axis]
        cells = start + np.arange(g.kernel[axis])[None, :] * g.dilation[axis]
        inside = ((cells >= low) & (cells < high)).sum(axis=1).astype(np.float64)
        total = total * inside.reshape([-1 if a == axis + 2 else 1 for a in range(g.rank + 2)])
    return total


@rule("GlobalMaxPool", notes="tied maxima share the gradient equally")
def global_max_pool(n: Node) -> Gradients:
    mask = n.graph.cast(n.graph.op("Equal", n.x, n.y), n.x.dtype or np.float32)
    return mask * (n.dy / n.graph.sum(mask, list(range(2, n.x.rank)), keep=True))
