"""Depthwise-separable chains in another layout: channels first, batch last, [C, *spatial, N].

onnxruntime runs a depthwise convolution and both of its gradients channel by channel and sample by sample. With
the batch last everything becomes matrix products over long rows and copies of long runs:

 depthwise  per channel a Toeplitz matrix, linear in the kernel, times the pixels: over the whole image if it is
            small, else over the rows that an output row looks at;
 pointwise  one product W[O, C] · x[C, H·W·N] instead of one per sample.

Gradients follow by the ordinary rules. A chain keeps the layout through element-wise operators; every value is
also turned back, which costs nothing where nobody reads it (dead nodes are pruned). `benchmarks.gradient_forms`
records what it is worth per shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from learning.autodiff.graph import Array, Graph, Shape, Tensor
from learning.autodiff.observe import Observed

# KH·W: a product costs W/KW times the convolution's own arithmetic, which pays up to here.
TOEPLITZ_ROWS_MAX = 96

WHOLE_CELLS_MAX = 64  # H·W up to which one product over the whole image beats a window of rows

UNARY = frozenset(
    ["Relu", "LeakyRelu", "Elu", "Sigmoid", "Tanh", "Softplus", "Gelu", "HardSigmoid", "HardSwish", "Clip"]
)

Attributes = dict[str, Any]


class _Pass:
    """One walk over the model. `turned` holds the batch-last form of the values that have one."""

    def __init__(self, observed: Observed) -> None:
        self.observed = observed
        self.turned: dict[str, Tensor] = {}

    def source(self, g: Graph, name: str) -> Tensor:
        """A value in batch-last form, turned now if nobody did."""
        if name in self.turned:
            found = self.turned[name]
            return Tensor(found.name, g, found.shape, found.dtype)
        shape = self.observed.shapes[name]
        x = Tensor(name, g, shape, self.observed.dtypes[name])
        made = g.transpose(x, [*range(1, len(shape)), 0])
        self.turned[name] = Tensor(made.name, g, (*shape[1:], shape[0]), x.dtype)
        return self.turned[name]

    def plain(self, g: Graph, name: str) -> Tensor:
        return Tensor(name, g, self.observed.shapes[name], self.observed.dtypes[name])


Form = Callable[[_Pass, Graph, onnx.NodeProto, Attributes], Tensor | None]


def batch_last(observed: Observed) -> onnx.ModelProto | None:
    """The model with its depthwise-separable chains rewritten; None if it has none."""
    walk = _Pass(observed)
    if not any(_is_depthwise(walk, n, _attributes(n)) for n in observed.model.graph.node):
        return None
    model = onnx.ModelProto()
    model.CopyFrom(observed.model)
    nodes: list[onnx.NodeProto] = []
    for node in observed.model.graph.node:
        graph = Graph(observed.opset, observed.dtypes[observed.output])
        graph.prefix = f"{node.output[0]}/turned/"
        form = FORMS.get(node.op_type)
        made = form(walk, graph, node, _attributes(node)) if form else None
        if made is None:
            nodes.append(node)
            continue
        rank = len(observed.shapes[node.output[0]])
        nodes += graph.nodes
        nodes.append(
            helper.make_node("Transpose", [made.name], [node.output[0]], perm=[rank - 1, *range(rank - 1)])
        )
        walk.turned[node.output[0]] = made
        model.graph.initializer.extend(graph.initializers(set(graph.constants)))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _attributes(node: onnx.NodeProto) -> Attributes:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _is_depthwise(walk: _Pass, node: onnx.NodeProto, a: Attributes) -> bool:
    """One kernel per channel, over rows short enough; padding given in numbers."""
    if node.op_type != "Conv" or a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return False
    x, w = (walk.observed.shapes[node.input[i]] for i in (0, 1))
    if len(x) not in (3, 4) or int(a.get("group", 1)) == 1 or w[1] != 1 or w[0] != x[1]:
        return False
    rows = w[2] if len(x) == 4 else 1
    return int(a.get("group", 1)) == x[1] and rows * x[-1] <= TOEPLITZ_ROWS_MAX


def _convolution(walk: _Pass, g: Graph, node: onnx.NodeProto, a: Attributes) -> Tensor | None:
    if _is_depthwise(walk, node, a):
        return _depthwise(walk, g, node, a)
    x, w = (walk.observed.shapes[node.input[i]] for i in (0, 1))
    single = math.prod(w[2:]) == 1 and int(a.get("group", 1)) == 1
    steps = set(a.get("strides", [1])) | set(a.get("dilations", [1]))
    if node.input[0] in walk.turned and single and steps == {1} and not any(a.get("pads", [])):
        return _pointwise(walk, g, node, x)
    return None


def _pointwise(walk: _Pass, g: Graph, node: onnx.NodeProto, shape: Shape) -> Tensor:
    """W[O, C] · x[C, H·W·N] + b[O, 1]"""
    batch, channels, *spatial = shape
    outputs = walk.observed.shapes[node.input[1]][0]
    flat = g.reshape(walk.source(g, node.input[0]), [channels, math.prod(spatial) * batch])
    weight = g.reshape(walk.plain(g, node.input[1]), [outputs, channels])
    bias = g.reshape(walk.plain(g, node.input[2]), [outputs, 1]) if _has(node, 2) else None
    return g.reshape(g.op("Gemm", weight, flat, bias), [outputs, *spatial, batch])


@dataclass(frozen=True)
class _Shape:
    """A depthwise convolution; one spatial axis is an image of one row. Pairs are (rows, columns)."""

    batch: int
    channels: int
    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]

    def meets(self, axis: int) -> Array:
        """[kernel, out, size]: 1 where output j sees input i through kernel position k."""
        k, j, i = np.ogrid[: self.kernel[axis], : self.out[axis], : self.size[axis]]
        return np.asarray(j * self.stride[axis] + k * self.dilation[axis] - self.before[axis] == i)


def _geometry(walk: _Pass, node: onnx.NodeProto, a: Attributes) -> _Shape:
    batch, channels, *size = walk.observed.shapes[node.input[0]]
    rank = len(size)
    pads = list(a.get("pads", [0] * 2 * rank))

    def pair(values: Sequence[int], missing: int) -> tuple[int, int]:
        return (missing, values[0]) if rank == 1 else (values[0], values[1])

    return _Shape(
        batch, channels, pair(size, 1),
        pair(walk.observed.shapes[node.output[0]][2:], 1), pair(walk.observed.shapes[node.input[1]][2:], 1),
        pair(a.get("strides", [1] * rank), 1), pair(a.get("dilations", [1] * rank), 1),
        pair(pads[:rank], 0), pair(pads[rank:], 0),
    )  # fmt: skip


def _depthwise(walk: _Pass, g: Graph, node: onnx.NodeProto, a: Attributes) -> Tensor:
    s = _geometry(walk, node, a)
    x, weight = walk.source(g, node.input[0]), walk.plain(g, node.input[1])
    form = _by_image if math.prod(s.size) <= WHOLE_CELLS_MAX else _by_row
    made = form(g, x, weight, s)
    out = walk.observed.shapes[node.output[0]][2:]
    shape = (s.channels, *out, s.batch)
    if _has(node, 2):
        bias = g.reshape(walk.plain(g, node.input[2]), [s.channels, *[1] * (len(shape) - 1)])
        made = g.op("Add", g.reshape(made, shape), bias)
        return Tensor(made.name, g, shape, x.dtype)
    return g.reshape(made, shape)


def _by_image(g: Graph, x: Tensor, weight: Tensor, s: _Shape) -> Tensor:
    """Toeplitz[OH·OW, H·W] · x[H·W, N]. The basis is an outer product that onnxruntime folds when it loads."""
    cells, places = math.prod(s.size), math.prod(s.out)
    rows, columns = (s.meets(axis).astype(x.dtype or np.float32) for axis in (0, 1))
    (kh, oh, h), (kw, ow, w) = rows.shape, columns.shape
    basis = g.op(
        "Mul", g.constant(rows.reshape(kh, 1, oh, 1, h, 1)), g.constant(columns.reshape(1, kw, 1, ow, 1, w))
    )
    taps = g.reshape(weight, [s.channels, kh * kw])
    toeplitz = g.op("MatMul", taps, g.reshape(basis, [kh * kw, places * cells]))
    return g.op(
        "MatMul",
        g.reshape(toeplitz, [s.channels, places, cells]),
        g.reshape(x, [s.channels, cells, s.batch]),
    )


def _by_row(g: Graph, x: Tensor, weight: Tensor, s: _Shape) -> Tensor:
    """Per output row, Toeplitz[OW, KH·W] · the input rows it looks at [KH·W, N]."""
    (kh, kw), (oh, ow), width = s.kernel, s.out, s.size[1]
    shaped = g.reshape(x, [s.channels, *s.size, s.batch])
    padded = g.pad(shaped, [0, s.before[0], 0, 0], [0, s.after[0], 0, 0])
    starts = [d * s.dilation[0] for d in range(kh)]
    windows = [
        g.slice(padded, [start], [start + (oh - 1) * s.stride[0] + 1], [1], [s.stride[0]]) for start in starts
    ]
    seen = windows[0] if kh == 1 else g.op("Concat", *windows, axis=2)  # [C, OH, KH·W, N]
    basis = s.meets(1).astype(x.dtype or np.float32).reshape(kw, ow * width)
    made = g.op("MatMul", g.reshape(weight, [s.channels * kh, kw]), g.constant(basis))
    if kh > 1:
        made = g.transpose(g.reshape(made, [s.channels, kh, ow, width]), [0, 2, 1, 3])
    return g.op("MatMul", g.reshape(made, [s.channels, 1, ow, kh * width]), seen)


def _unary(walk: _Pass, g: Graph, node: onnx.NodeProto, _: Attributes) -> Tensor | None:
    """Element by element: the layout does not matter."""
    if node.input[0] not in walk.turned or len(node.output) > 1:
        return None
    x = walk.source(g, node.input[0])
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[0], copy.output[0] = x.name, g.fresh(node.op_type)
    copy.name = copy.output[0]
    g.nodes.append(copy)
    return Tensor(copy.output[0], g, x.shape, x.dtype)


def _add(walk: _Pass, g: Graph, node: onnx.NodeProto, _: Attributes) -> Tensor | None:
    """A skip connection between two values of one shape."""
    shapes = {walk.observed.shapes[name] for name in node.input}
    if len(shapes) > 1 or not all(name in walk.turned for name in node.input):
        return None
    x, y = (walk.source(g, name) for name in node.input)
    return Tensor(g.op("Add", x, y).name, g, x.shape, x.dtype)


def _global_average(walk: _Pass, g: Graph, node: onnx.NodeProto, _: Attributes) -> Tensor | None:
    if node.input[0] not in walk.turned:
        return None
    x = walk.source(g, node.input[0])
    axes = list(range(1, x.rank - 1))
    return Tensor(g.mean(x, axes).name, g, (x.dims[0], *[1] * len(axes), x.dims[-1]), x.dtype)


def _has(node: onnx.NodeProto, slot: int) -> bool:
    return len(node.input) > slot and bool(node.input[slot])


FORMS: dict[str, Form] = {
    "Conv": _convolution,
    "Add": _add,
    "GlobalAveragePool": _global_average,
    **dict.fromkeys(UNARY, _unary),
}
