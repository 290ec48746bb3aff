"""Convolutions of one and two spatial dimensions: stride, padding, dilation, groups.

y = Conv(x[N,C,*], w[O,C/G,*k]) is bilinear, so its gradients are convolutions again:
 dx = ConvTranspose(dy, w);  dw = a convolution of x with dy where batch and channels change places.
The weight gradient has several forms of equal value and very different speed; `form_of` chooses by shape, as
recorded by `python -m benchmarks.gradient_forms`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from learning.autodiff.errors import AutodiffError
from learning.autodiff.graph import Shape, Tensor
from learning.autodiff.registry import Gradients, Node, rule


@dataclass(frozen=True)
class Window:
    """The geometry of a sliding window, padding made explicit. All tuples have one entry per spatial axis."""

    size: Shape
    kernel: Shape
    out: Shape
    stride: Shape
    dilation: Shape
    before: Shape
    after: Shape
    groups: int = 1

    @property
    def rank(self) -> int:
        return len(self.kernel)

    @property
    def extent(self) -> Shape:
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def plain(self) -> bool:
        """No padding, no dilation."""
        return not any(self.before) and not any(self.after) and set(self.dilation) == {1}

    def attributes(self) -> dict[str, Any]:
        return {
            "strides": list(self.stride),
            "dilations": list(self.dilation),
            "pads": [*self.before, *self.after],
        }


def window(n: Node, size: Shape, kernel: Shape, out: Shape) -> Window:
    """Geometry of a Conv or pool node; `size` and `out` are the spatial shapes of its larger and smaller
    side.
    """
    rank = len(kernel)
    if rank > 2:
        raise AutodiffError(
            f"{n.proto.op_type} (node {n.proto.name!r}) has {rank} spatial axes: rules cover 1 and 2"
        )
    stride = tuple(n.attr("strides") or [1] * rank)
    dilation = tuple(n.attr("dilations") or [1] * rank)
    pads = list(n.attr("pads") or [0] * (2 * rank))
    auto = n.attr("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        for axis in range(rank):
            total = max(
                0, (out[axis] - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1 - size[axis]
            )
            small, large = total // 2, total - total // 2
            pads[axis], pads[axis + rank] = (small, large) if auto == "SAME_UPPER" else (large, small)
    groups = int(n.attr("group", 1))
    return Window(size, kernel, out, stride, dilation, tuple(pads[:rank]), tuple(pads[rank:]), groups)


@rule("Conv", notes="1-D and 2-D; stride, padding, auto_pad, dilation, groups")
def conv(n: Node) -> Gradients:
    x, w = n.input(0), n.input(1)
    geometry = window(n, x.dims[2:], w.dims[2:], n.y.dims[2:])
    return [
        input_gradient(n.dy, w, geometry) if n.wants(0) else None,
        weight_gradient(x, n.dy, geometry) if n.wants(1) else None,
        n.graph.sum(n.dy, [0, *range(2, x.rank)]) if n.wants(2) else None,
    ]


@rule("ConvTranspose", notes="1-D and 2-D; all of Conv, output_padding, output_shape")
def conv_transpose(n: Node) -> Gradients:
    x, w = n.input(0), n.input(1)
    geometry = mirrored(n, w)
    return [
        n.graph.op("Conv", n.dy, w, group=geometry.groups, **geometry.attributes()) if n.wants(0) else None,
        weight_gradient(n.dy, x, geometry) if n.wants(1) else None,
        n.graph.sum(n.dy, [0, *range(2, x.rank)]) if n.wants(2) else None,
    ]


def mirrored(n: Node, w: Tensor) -> Window:
    """The convolution that a ConvTranspose mirrors. `auto_pad` and `output_shape` say what it gives, and the pads
    follow: s·(i − 1) + output_padding + extent − o in all, the odd one at the end for SAME_UPPER.
    """
    g = window(n, n.y.dims[2:], w.dims[2:], n.x.dims[2:])
    auto = n.attr("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID") and not n.attr("output_shape"):
        return g
    rest = n.attr("output_padding") or [0] * g.rank
    before, after = [], []
    for axis in range(g.rank):
        total = max(0, g.stride[axis] * (g.out[axis] - 1) + rest[axis] + g.extent[axis] - g.size[axis])
        small, large = total // 2, total - total // 2
        # onnxruntime's choice, checked by the adjoint test: SAME_UPPER has the larger half at the end.
        first, last = (small, large) if auto == "SAME_UPPER" else (large, small)
        before.append(first)
        after.append(last)
    return replace(g, before=tuple(before), after=tuple(after))


# --- dx -----------------------------------------------------------------------------------------------------


def input_gradient(dy: Tensor, w: Tensor, g: Window) -> Tensor:
    """dx; a step that does not fit leaves rows of x unused, which `output_padding` gives back as zeros.

    An ordinary convolution with the kernel turned round would do for stride 1; it takes 1.8 times as long.
    """
    rest = [
        size - (s * (o - 1) + extent - b - a)
        for size, s, o, extent, b, a in zip(g.size, g.stride, g.out, g.extent, g.before, g.after, strict=True)
    ]
    return dy.graph.op("ConvTranspose", dy, w, group=g.groups, output_padding=rest, **g.attributes())


# --- dw -----------------------------------------------------------------------------------------------------

COLUMNS_MAX = 96  # rows of one im2col block: more would only cost memory, the product is as fast

STACK_BYTES_MAX = (
    2 << 20
)  # stacked taps of a depthwise layer: what a second-level cache holds, and no more memory


WeightForm = Callable[[Tensor, Tensor, Window], Tensor]


def weight_gradient(x: Tensor, dy: Tensor, g: Window) -> Tensor:
    """dw for y = Conv(x, w): chosen by shape, all forms give the same value."""
    return form_of(x.dims[1], dy.dims[1], g)(x, dy, g)


def form_of(channels: int, outputs: int, g: Window) -> WeightForm:
    """The form that `python -m benchmarks.gradient_forms` found fastest for such a layer."""
    if math.prod(g.kernel) == 1 and g.plain and set(g.stride) == {1} and g.groups == 1:
        return _pointwise
    if g.groups == channels == outputs:
        return _depthwise
    if g.groups == 1:
        return _columns
    return _swapped


def _pointwise(x: Tensor, dy: Tensor, g: Window) -> Tensor:
    """1×1: per sample a product of [O, P] and [P, C], summed over samples."""
    batch, channels, outputs = x.dims[0], x.dims[1], dy.dims[1]
    flat_x = x.graph.reshape(x, [batch, channels, -1])
    flat_dy = x.graph.reshape(dy, [batch, outputs, -1])
    product = x.graph.op("MatMul", flat_dy, x.graph.swap_last(flat_x, 3))
    return x.graph.reshape(x.graph.sum(product, [0]), [outputs, channels, *g.kernel])


def _taps(x: Tensor, g: Window) -> Iterator[Tensor]:
    """For every kernel position the part of x it multiplies: x with its spatial axes cut to `out`.

    One by one: nodes run in the order they are written, and no more of these copies should live than are used.
    """
    lead = [0, 0]
    padded = x.graph.pad(x, [*lead, *g.before], [*lead, *g.after])
    axes = list(range(2, 2 + g.rank))
    for position in itertools.product(*(range(k) for k in g.kernel)):
        starts = [p * d for p, d in zip(position, g.dilation, strict=True)]
        ends = [b + (o - 1) * s + 1 for b, o, s in zip(starts, g.out, g.stride, strict=True)]
        yield x.graph.slice(padded, starts, ends, axes, list(g.stride))


def _columns(x: Tensor, dy: Tensor, g: Window) -> Tensor:
    """im2col: copies of x, one per kernel position, times dy, as one product over all samples and positions.

    Done in blocks of kernel positions: all k copies at once would cost k times the memory of x.
    """
    graph, channels, outputs = x.graph, x.dims[1], dy.dims[1]
    turned = [1, 0, *range(2, 2 + g.rank)]
    right = graph.reshape(graph.transpose(dy, turned), [outputs, -1])
    taps = _taps(graph.transpose(x, turned), g)
    count = math.prod(g.kernel)
    blocks = -(-count * channels // COLUMNS_MAX)
    each = -(-count // min(blocks, count))
    products = []
    while block := list(itertools.islice(taps, each)):
        stacked = block[0] if len(block) == 1 else graph.op("Concat", *block, axis=0)
        columns = graph.reshape(stacked, [len(block) * channels, -1])
        products.append(graph.op("Gemm", columns, right, transB=1))
    rows = products[0] if len(products) == 1 else graph.op("Concat", *products, axis=0)
    moved = graph.transpose(graph.reshape(rows, [count, channels, outputs]), [2, 1, 0])
    return graph.reshape(moved, [outputs, channels, *g.kernel])


def _depthwise(x: Tensor, dy: Tensor, g: Window) -> Tensor:
    """Every channel by itself: per sample and channel, the taps as rows of a matrix times dy as a vector."""
    graph, (batch, channels), places = x.graph, x.dims[:2], math.prod(g.out)
    column = graph.reshape(dy, [batch, channels, places, 1])
    taps = _taps(x, g)
    each = max(1, STACK_BYTES_MAX // (4 * batch * channels * places))
    products = []
    while block := list(itertools.islice(taps, each)):
        stacked = block[0] if len(block) == 1 else graph.op("Concat", *block, axis=2)
        rows = graph.reshape(stacked, [batch, channels, len(block), places])
        products.append(graph.sum(graph.op("MatMul", rows, column), [0]))
    made = products[0] if len(products) == 1 else graph.op("Concat", *products, axis=1)
    return graph.reshape(made, [channels, 1, *g.kernel])


def _swapped(x: Tensor, dy: Tensor, g: Window) -> Tensor:
    """The general form: convolve x with dy as the kernel, batch and channels exchanged, stride and dilation
    too.
    """
    graph, groups = x.graph, g.groups
    batch, channels = x.dims[:2]
    spatial = list(range(2, 2 + g.rank))
    if groups == 1:
        data = graph.transpose(x, [1, 0, *spatial])
    else:
        split = graph.reshape(x, [batch, groups, channels // groups, *g.size])
        moved = graph.transpose(split, [2, 1, 0, *(a + 1 for a in spatial)])
        data = graph.reshape(moved, [channels // groups, groups * batch, *g.size])
    kernel = graph.transpose(dy, [1, 0, *spatial])
    made = graph.op(
        "Conv",
        data,
        kernel,
        group=groups,
        strides=list(g.dilation),
        dilations=list(g.stride),
        pads=[*g.before, *g.after],
    )
    cropped = graph.slice(made, [0] * g.rank, list(g.kernel), spatial, [1] * g.rank)
    return graph.transpose(cropped, [1, 0, *spatial])
