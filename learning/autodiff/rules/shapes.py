"""Operators that only move elements around."""

from __future__ import annotations

import numpy as np

from learning.autodiff.errors import AutodiffError
from learning.autodiff.graph import Tensor
from learning.autodiff.registry import Gradients, Node, rule


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(n: Node) -> Gradients:
    return n.graph.reshape(n.dy, n.x.dims)


@rule("Transpose")
def transpose(n: Node) -> Gradients:
    order = n.attr("perm") or range(n.x.rank)[::-1]
    return n.graph.transpose(n.dy, [int(i) for i in np.argsort(order)])


@rule("Concat")
def concat(n: Node) -> Gradients:
    axis = int(n.attr("axis"))
    sizes = [n.input(i).dims[axis] for i in range(len(n.inputs))]
    if len(sizes) == 1:
        return n.dy
    return n.graph.ops("Split", n.dy, n.graph.ints(sizes), outputs=len(sizes), axis=axis)


@rule("Split")
def split(n: Node) -> Gradients:
    axis = int(n.attr("axis", 0))
    parts = [
        grad if grad is not None else n.graph.zeros_like(out)
        for grad, out in zip(n.grads, n.outputs, strict=True)
    ]
    return n.graph.op("Concat", *parts, axis=axis)


@rule("TopK", notes="of the values; indices have none")
def top_k(n: Node) -> Gradients:
    if n.grads[0] is None:
        return None
    axis, indices = int(n.attr("axis", -1)), n.outputs[1]
    return n.graph.op("ScatterElements", n.graph.zeros_like(n.x), indices, n.dy, axis=axis)


@rule("Slice", notes="constant bounds; steps of either sign")
def slice_(n: Node) -> Gradients:
    starts, ends = n.ints(1), n.ints(2)
    assert starts is not None
    assert ends is not None
    axes = n.ints(3) or list(range(len(starts)))
    steps = n.ints(4) or [1] * len(starts)
    grad = n.dy
    dims = list(n.y.dims)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis %= n.x.rank
        picked = range(n.x.dims[axis])[
            slice(start, None if step < 0 and end < -n.x.dims[axis] else end, step)
        ]
        grad = _place(n, grad, dims, axis, picked)
        dims[axis] = n.x.dims[axis]
    return grad


def _place(n: Node, grad: Tensor, dims: list[int], axis: int, picked: range) -> Tensor:
    """Put a sliced axis back where it came from: reverse, spread with zeros, pad."""
    g, size, count = n.graph, n.x.dims[axis], len(picked)
    if count == 0:
        raise AutodiffError(f"Slice {n.proto.name!r} takes nothing: its gradient is empty")
    if picked.step < 0:
        grad = g.slice(grad, [-1], [-(1 << 31)], [axis], [-1])
        picked = picked[::-1]
    if picked.step > 1:
        spread = [*dims[: axis + 1], 1, *dims[axis + 1 :]]
        grad = g.reshape(grad, spread)
        pads = [0] * len(spread)
        pads[axis + 1] = picked.step - 1
        grad = g.reshape(
            g.pad(grad, [0] * len(spread), pads), [*dims[:axis], count * picked.step, *dims[axis + 1 :]]
        )
        grad = g.slice(grad, [0], [(count - 1) * picked.step + 1], [axis], [1])
    covered = (count - 1) * picked.step + 1
    before, after = [0] * len(dims), [0] * len(dims)
    before[axis], after[axis] = picked[0], size - picked[0] - covered
    return g.pad(grad, before, after)


@rule("Pad", notes="constant mode; negative amounts crop")
def pad(n: Node) -> Gradients:
    if n.attr("mode", "constant") != "constant":
        raise AutodiffError(
            f"Pad (node {n.proto.name!r}) in mode {n.attr('mode')!r}: only constant padding has a rule"
        )
    pads = n.ints(1) or []
    axes = [a % n.x.rank for a in n.ints(3) or range(n.x.rank)]
    before, after = [0] * n.x.rank, [0] * n.x.rank
    for position, axis in enumerate(axes):
        before[axis], after[axis] = -pads[position], -pads[position + len(axes)]
    return n.graph.pad(n.dy, before, after)


@rule("Trilu")
def trilu(n: Node) -> Gradients:
    """A triangle of the input, zero elsewhere: dy is cut in the same way."""
    return n.graph.op("Trilu", n.dy, n.input(1) if n.has(1) else None, upper=int(n.attr("upper", 1)))


@rule("Expand")
def expand(n: Node) -> Gradients:
    return n.unbroadcast(n.dy, 0)


@rule("Tile")
def tile(n: Node) -> Gradients:
    repeats = n.ints(1) or [1] * n.x.rank
    split: list[int] = []
    for repeat, size in zip(repeats, n.x.dims, strict=True):
        split += [repeat, size]
    return n.graph.sum(n.graph.reshape(n.dy, split), list(range(0, 2 * n.x.rank, 2)))


@rule("Gather", notes="embeddings; repeated indices add up")
def gather(n: Node) -> Gradients:
    """Scatter-add of dy's rows into zeros. The gathered axis comes first, as ScatterND wants it."""
    if not n.wants(0):
        return None
    g, axis, rank = n.graph, int(n.attr("axis", 0)) % n.x.rank, n.x.rank
    indices = n.input(1)
    size, width = n.x.dims[axis], indices.rank
    lead = list(range(axis, axis + width))
    dy = g.transpose(n.dy, [*lead, *(a for a in range(n.y.rank) if a not in lead)]) if axis else n.dy
    wrapped = g.cast(indices, np.int64)
    wrapped = g.op(
        "Where", g.op("Less", wrapped, g.constant(0)), g.op("Add", wrapped, g.constant(size)), wrapped
    )
    rest = [d for a, d in enumerate(n.x.dims) if a != axis]
    zeros = g.zeros([size, *rest], n.x.dtype)
    index = g.reshape(wrapped, [*indices.dims, 1])
    scattered = g.op("ScatterND", zeros, index, dy, reduction="add")
    if not axis:
        return [scattered, None]
    order = [*range(1, axis + 1), 0, *range(axis + 1, rank)]
    return [g.transpose(scattered, order), None]


@rule("DepthToSpace")
def depth_to_space(n: Node) -> Gradients:
    if n.attr("mode", "DCR") != "DCR":
        raise AutodiffError(f"DepthToSpace (node {n.proto.name!r}) in mode CRD has no gradient rule")
    return n.graph.op("SpaceToDepth", n.dy, blocksize=int(n.attr("blocksize")))


@rule("SpaceToDepth")
def space_to_depth(n: Node) -> Gradients:
    return n.graph.op("DepthToSpace", n.dy, blocksize=int(n.attr("blocksize")))
