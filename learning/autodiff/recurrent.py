"""GRU and LSTM unrolled at a fixed length, into products and gates that have gradient rules.

The input's products are taken for all steps at once; only the recurrent product waits for its predecessor.
ONNX's conventions: X [T, N, I], W [D, gates·H, I], R [D, gates·H, H], B [D, 2·gates·H], Y [T, D, N, H].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from learning.autodiff.errors import AutodiffError
from learning.autodiff.graph import Graph, Tensor

STEPS_MAX = (
    512  # unrolled nodes grow with the length: 512 steps are some 10,000 nodes, seconds to load on a Pi
)


@dataclass
class _Layer:
    """One direction of one recurrent layer, its weights cut out of the stacked tensors."""

    graph: Graph
    hidden: int
    batch: int
    inputs: list[Tensor]  # per step, x_t·Wᵀ + b, [N, gates·H]
    recurrent: Tensor  # [gates·H, H]
    bias: Tensor | None  # of the recurrent product, [gates·H]
    first: Tensor  # h_0 [N, H]

    def gates(self, tensor: Tensor, sizes: list[int]) -> list[Tensor]:
        made = self.graph.ops(
            "Split",
            tensor,
            self.graph.ints([size * self.hidden for size in sizes]),
            outputs=len(sizes),
            axis=1,
        )
        return [
            Tensor(t.name, self.graph, (self.batch, s * self.hidden), t.dtype)
            for t, s in zip(made, sizes, strict=True)
        ]

    def product(self, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return (
            self.graph.op("Gemm", h, weight, bias, transB=1)
            if bias
            else self.graph.op("Gemm", h, weight, transB=1)
        )


def _attributes(node: onnx.NodeProto, gates: int) -> tuple[int, list[bool], bool]:
    """Hidden size, whether each direction runs backwards, linear_before_reset. Refuses what is not
    covered.
    """
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    label = f"{node.op_type} (node {node.name!r})"
    if found.get("activations") and b"".join(found["activations"]) not in (
        b"SigmoidTanh",
        b"SigmoidTanhTanh",
    ):
        raise AutodiffError(f"{label}: only the default activations have a gradient")
    if found.get("clip") or found.get("input_forget") or found.get("layout"):
        raise AutodiffError(f"{label}: clip, input_forget and layout=1 have no gradient rule")
    if len(node.input) > 4 and node.input[4]:
        raise AutodiffError(f"{label}: sequence_lens is not covered; pad sequences to one length")
    if gates == 4 and len(node.input) > 7 and node.input[7]:
        raise AutodiffError(f"{label}: peepholes are not covered")
    direction = found.get("direction", b"forward").decode()
    backwards = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    return int(found["hidden_size"]), backwards, bool(found.get("linear_before_reset", 0))


def _part(g: Graph, stacked: Tensor, index: int, start: int = 0, stop: int | None = None) -> Tensor:
    """stacked[index, start:stop]"""
    count = stacked.dims[0]
    flat = stacked
    if count > 1:
        flat = g.slice(stacked, [index], [index + 1], [0], [1])
    stop = stacked.dims[1] if stop is None else stop
    whole = g.reshape(flat, stacked.dims[1:])
    if (start, stop) == (0, stacked.dims[1]):
        return whole
    made = g.slice(whole, [start], [stop], [0], [1])
    return Tensor(made.name, g, (stop - start, *stacked.dims[2:]), stacked.dtype)


def _layer(
    g: Graph, node: onnx.NodeProto, t: dict[str, Tensor], gates: int, index: int, hidden: int
) -> _Layer:
    x, w, r = (t[node.input[i]] for i in range(3))
    steps, batch, width = x.dims
    if steps > STEPS_MAX:
        raise AutodiffError(f"{node.op_type} {node.name!r}: {steps} steps to unroll, at most {STEPS_MAX}")
    bias = t[node.input[3]] if len(node.input) > 3 and node.input[3] else None
    input_bias = _part(g, bias, index, 0, gates * hidden) if bias else None
    flat = g.reshape(x, [steps * batch, width])
    weight = _part(g, w, index)
    whole = (
        g.op("Gemm", flat, weight, input_bias, transB=1)
        if input_bias
        else g.op("Gemm", flat, weight, transB=1)
    )
    cut = g.ops("Split", whole, g.ints([batch] * steps), outputs=steps, axis=0) if steps > 1 else [whole]
    inputs = [Tensor(c.name, g, (batch, gates * hidden), x.dtype) for c in cut]
    recurrent_bias = _part(g, bias, index, gates * hidden) if bias else None
    first = _initial(g, node, t, 5, index, (batch, hidden), x)
    return _Layer(g, hidden, batch, inputs, _part(g, r, index), recurrent_bias, first)


def _initial(
    g: Graph,
    node: onnx.NodeProto,
    t: dict[str, Tensor],
    slot: int,
    index: int,
    shape: tuple[int, int],
    like: Tensor,
) -> Tensor:
    if len(node.input) > slot and node.input[slot]:
        return _part(g, t[node.input[slot]], index)
    return g.constant(np.zeros(shape, like.dtype))


def _directions(
    g: Graph,
    node: onnx.NodeProto,
    t: dict[str, Tensor],
    gates: int,
    run: Callable[..., tuple[dict[int, Tensor], list[Tensor]]],
) -> list[Tensor | None]:
    """Run every direction and stack: Y [T, D, N, H], then the last h (and c) [D, N, H]."""
    hidden, backwards, linear = _attributes(node, gates)
    steps, batch, _ = t[node.input[0]].dims
    sequences, lasts = [], []
    for index, reverse in enumerate(backwards):
        layer = _layer(g, node, t, gates, index, hidden)
        order = list(range(steps))[:: -1 if reverse else 1]
        made, last = run(layer, order, index, linear)
        stacked = [g.reshape(made[step], [1, 1, batch, hidden]) for step in range(steps)]
        sequences.append(stacked[0] if steps == 1 else g.op("Concat", *stacked, axis=0))
        lasts.append([g.reshape(value, [1, batch, hidden]) for value in last])
    if len(backwards) == 1:
        return [sequences[0], *lasts[0]]
    joined = [g.op("Concat", *pair, axis=0) for pair in zip(*lasts, strict=True)]
    return [g.op("Concat", *sequences, axis=1), *joined]


def unroll_gru(g: Graph, node: onnx.NodeProto, t: dict[str, Tensor]) -> list[Tensor | None]:
    """z = σ(·), r = σ(·), n = tanh(·), h ← n + z·(h − n). Gates in ONNX's order z, r, h."""

    def run(layer: _Layer, order: list[int], _: int, linear: bool) -> tuple[dict[int, Tensor], list[Tensor]]:
        h, made = layer.first, {}
        for step in order:
            h = made[step] = (_gru_linear if linear else _gru_reset_first)(layer, layer.inputs[step], h)
        return made, [h]

    return _directions(g, node, t, 3, run)


def _gru_linear(layer: _Layer, x: Tensor, h: Tensor) -> Tensor:
    """linear_before_reset = 1, as PyTorch: n = tanh(x_n + r·(h·Rᵀ + b))"""
    g = layer.graph
    x_zr, x_n = layer.gates(x, [2, 1])
    h_zr, h_n = layer.gates(layer.product(h, layer.recurrent, layer.bias), [2, 1])
    z, r = layer.gates(g.op("Sigmoid", x_zr + h_zr), [1, 1])
    n = g.op("Tanh", x_n + r * h_n)
    return n + z * (h - n)


def _gru_reset_first(layer: _Layer, x: Tensor, h: Tensor) -> Tensor:
    """linear_before_reset = 0: n = tanh(x_n + (r·h)·Rᵀ + b)"""
    g, size = layer.graph, layer.hidden
    weight_zr = g.slice(layer.recurrent, [0], [2 * size], [0], [1])
    weight_n = g.slice(layer.recurrent, [2 * size], [3 * size], [0], [1])
    bias_zr = bias_n = None
    if layer.bias:
        bias_zr = g.slice(layer.bias, [0], [2 * size], [0], [1])
        bias_n = g.slice(layer.bias, [2 * size], [3 * size], [0], [1])
    x_zr, x_n = layer.gates(x, [2, 1])
    z, r = layer.gates(g.op("Sigmoid", x_zr + layer.product(h, weight_zr, bias_zr)), [1, 1])
    n = g.op("Tanh", x_n + layer.product(r * h, weight_n, bias_n))
    return n + z * (h - n)


def unroll_lstm(g: Graph, node: onnx.NodeProto, t: dict[str, Tensor]) -> list[Tensor | None]:
    """i, o, f = σ(·), c̃ = tanh(·); c ← f·c + i·c̃; h = o·tanh(c). Gates in ONNX's order i, o, f, c."""

    def run(layer: _Layer, order: list[int], index: int, _: bool) -> tuple[dict[int, Tensor], list[Tensor]]:
        x = t[node.input[0]]
        h, made = layer.first, {}
        c = _initial(g, node, t, 6, index, (layer.batch, layer.hidden), x)
        for step in order:
            total = layer.inputs[step] + layer.product(h, layer.recurrent, layer.bias)
            iof, candidate = layer.gates(Tensor(total.name, g, None, x.dtype), [3, 1])
            i, o, f = layer.gates(g.op("Sigmoid", iof), [1, 1, 1])
            c = f * c + i * g.op("Tanh", candidate)
            h = made[step] = o * g.op("Tanh", c)
        return made, [h, c]

    return _directions(g, node, t, 4, run)
