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

# Unrolled nodes grow with the length: 512 steps are some 10,000 nodes, seconds to load on a Pi.
STEPS_MAX = 512


@dataclass
class _Layer:
    """One direction of one recurrent layer, its weights cut into groups of gates that are computed together."""

    graph: Graph
    hidden: int
    batch: int
    inputs: list[list[Tensor]]  # per group and step, x_t·Wᵀ + b, [N, gates·H]
    recurrent: list[Tensor]  # per group, [gates·H, H]
    bias: list[Tensor | None]  # per group: of the recurrent product, where it is not part of `inputs` already
    first: Tensor  # h_0 [N, H]

    def gates(self, tensor: Tensor, count: int) -> list[Tensor]:
        made = self.graph.ops("Split", tensor, self.graph.ints([self.hidden] * count), outputs=count, axis=1)
        return [Tensor(m.name, self.graph, (self.batch, self.hidden), m.dtype) for m in made]

    def product(self, group: int, h: Tensor, step: int) -> Tensor:
        """h·Rᵀ + x: the sum rides on the product, which saves a pass and, in the gradient, a node per step."""
        made = self.graph.op("Gemm", h, self.recurrent[group], self.inputs[group][step], transB=1)
        return Tensor(made.name, self.graph, self.inputs[group][step].shape, made.dtype)

    def alone(self, group: int, h: Tensor) -> Tensor:
        """h·Rᵀ + b"""
        made = self.graph.op("Gemm", h, self.recurrent[group], self.bias[group], transB=1)
        return Tensor(made.name, self.graph, self.inputs[group][0].shape, made.dtype)


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
    g: Graph,
    node: onnx.NodeProto,
    t: dict[str, Tensor],
    groups: list[int],
    apart: bool,
    index: int,
    hidden: int,
) -> _Layer:
    """`groups`: gates of each group. `apart`: the last group's recurrent bias stays with its product."""
    x, w, r = (t[node.input[i]] for i in range(3))
    steps, batch, width = x.dims
    if steps > STEPS_MAX:
        raise AutodiffError(f"{node.op_type} {node.name!r}: {steps} steps to unroll, at most {STEPS_MAX}")
    gates, sizes = sum(groups), [size * hidden for size in groups]
    bias = t[node.input[3]] if len(node.input) > 3 and node.input[3] else None
    input_bias, kept = None, None
    if bias is not None:
        input_bias, kept = _biases(g, bias, index, sizes, apart)
        if kept is not None:
            # For every sample already: its gradient is then summed over them once, not at each step.
            made = g.op("Expand", kept, g.ints([batch, sizes[-1]]))
            kept = Tensor(made.name, g, (batch, sizes[-1]), bias.dtype)
    flat = g.reshape(x, [steps * batch, width])
    whole = g.op("Gemm", flat, _part(g, w, index), input_bias, transB=1)
    inputs = [
        _cut(g, part, size, steps, batch)
        for part, size in zip(_split(g, whole, sizes, 1), sizes, strict=True)
    ]
    recurrent = [
        Tensor(part.name, g, (size, hidden), r.dtype)
        for part, size in zip(_split(g, _part(g, r, index), sizes, 0), sizes, strict=True)
    ]
    first = _initial(g, node, t, 5, index, (batch, hidden), x)
    assert gates * hidden == w.dims[1]
    biases = [*(None for _ in groups[1:]), kept]
    return _Layer(g, hidden, batch, inputs, recurrent, biases, first)


def _biases(
    g: Graph, bias: Tensor, index: int, sizes: list[int], apart: bool
) -> tuple[Tensor, Tensor | None]:
    """The bias of the input's product, with the recurrent one in it except for a last group that is apart."""
    total = sum(sizes)
    of_input, of_state = _part(g, bias, index, 0, total), _part(g, bias, index, total)
    if not apart:
        return of_input + of_state, None
    shared = total - sizes[-1]
    first, last = _split(g, of_input, [shared, sizes[-1]], 0)
    moved, kept = _split(g, of_state, [shared, sizes[-1]], 0)
    joined = g.op("Concat", first + moved, last, axis=0)
    return joined, Tensor(kept.name, g, (sizes[-1],), bias.dtype)


def _split(g: Graph, x: Tensor, sizes: list[int], axis: int) -> list[Tensor]:
    return [x] if len(sizes) == 1 else g.ops("Split", x, g.ints(sizes), outputs=len(sizes), axis=axis)


def _cut(g: Graph, x: Tensor, size: int, steps: int, batch: int) -> list[Tensor]:
    """[T·N, size] into T pieces."""
    return [Tensor(c.name, g, (batch, size), x.dtype) for c in _split(g, x, [batch] * steps, 0)]


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
    groups: list[int],
    run: Callable[..., tuple[dict[int, Tensor], list[Tensor]]],
) -> list[Tensor | None]:
    """Run every direction and stack: Y [T, D, N, H], then the last h (and c) [D, N, H]."""
    hidden, backwards, linear = _attributes(node, sum(groups))
    steps, batch, _ = t[node.input[0]].dims
    sequences, lasts = [], []
    for index, reverse in enumerate(backwards):
        layer = _layer(g, node, t, groups, linear, index, hidden)
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
            h = made[step] = _gru_step(layer, h, step, linear)
        return made, [h]

    return _directions(g, node, t, [2, 1], run)


def _gru_step(layer: _Layer, h: Tensor, step: int, linear: bool) -> Tensor:
    """linear_before_reset = 1, as PyTorch: n = tanh(x_n + r·(h·Rᵀ + b)); 0: n = tanh(x_n + (r·h)·Rᵀ + b)."""
    g = layer.graph
    z, r = layer.gates(g.op("Sigmoid", layer.product(0, h, step)), 2)
    inner = layer.inputs[1][step] + r * layer.alone(1, h) if linear else layer.product(1, r * h, step)
    n = g.op("Tanh", inner)
    return n + z * (h - n)


def unroll_lstm(g: Graph, node: onnx.NodeProto, t: dict[str, Tensor]) -> list[Tensor | None]:
    """i, o, f = σ(·), c̃ = tanh(·); c ← f·c + i·c̃; h = o·tanh(c). Gates in ONNX's order i, o, f, c."""

    def run(layer: _Layer, order: list[int], index: int, _: bool) -> tuple[dict[int, Tensor], list[Tensor]]:
        x = t[node.input[0]]
        h, made = layer.first, {}
        c = _initial(g, node, t, 6, index, (layer.batch, layer.hidden), x)
        for step in order:
            i, o, f = layer.gates(g.op("Sigmoid", layer.product(0, h, step)), 3)
            c = f * c + i * g.op("Tanh", layer.product(1, h, step))
            h = made[step] = o * g.op("Tanh", c)
        return made, [h, c]

    return _directions(g, node, t, [3, 1], run)
