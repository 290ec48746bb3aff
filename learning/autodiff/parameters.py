"""Which initializers are weights, and why.

ONNX does not say what was a parameter and what a constant. An initializer counts as trainable if it is float,
has rank ≥ 1 and reaches the loss through a slot where layers keep weights (the kernel of a Conv, an operand
of a MatMul, a bias that is added ...), directly or through views such as Transpose. ε, √2, masks and shapes
reach no such slot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import onnx

from learning.autodiff.errors import AutodiffError
from learning.autodiff.graph import Array
from learning.autodiff.observe import Observed

Kind = Literal["weight", "bias", "norm", "state"]

VIEWS = {
    "Transpose",
    "Reshape",
    "Identity",
    "Cast",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Concat",
    "Slice",
    "Split",
}
VIEWS |= {"Expand", "Tile", "Gather"}

# operator → input slots that hold weights, and what kind
SLOTS: dict[str, dict[int, Kind]] = {
    "Conv": {1: "weight", 2: "bias"},
    "ConvTranspose": {1: "weight", 2: "bias"},
    "Gemm": {0: "weight", 1: "weight", 2: "bias"},
    "MatMul": {0: "weight", 1: "weight"},
    "Einsum": {0: "weight", 1: "weight", 2: "weight"},
    "Gather": {0: "weight"},
    "LSTM": {1: "weight", 2: "weight", 3: "bias", 7: "weight"},
    "GRU": {1: "weight", 2: "weight", 3: "bias"},
    "PRelu": {1: "weight"},
    "BatchNormalization": {1: "norm", 2: "norm"},
    "LayerNormalization": {1: "norm", 2: "norm"},
    "InstanceNormalization": {1: "norm", 2: "norm"},
    "GroupNormalization": {1: "norm", 2: "norm"},
}
ELEMENTWISE: dict[str, Kind] = {"Add": "bias", "Sub": "bias", "Mul": "norm", "Div": "norm"}
MASK_MAGNITUDE = 1e4  # additive masks hold -inf, float32's minimum or -1e4; no trained weight is that large


@dataclass(frozen=True)
class Verdict:
    """What an initializer is. `kind` is None for a constant; `reason` is a phrase for a person."""

    name: str
    kind: Kind | None
    reason: str
    trainable: bool = False


def judge(observed: Observed) -> list[Verdict]:
    """A verdict on every initializer, in the model's order."""
    consumers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in observed.model.graph.node:
        for slot, name in enumerate(node.input):
            consumers.setdefault(name, []).append((node, slot))
    return [_judge_one(name, array, consumers) for name, array in observed.weights.items()]


def _judge_one(name: str, array: Array, consumers: dict[str, list[tuple[onnx.NodeProto, int]]]) -> Verdict:
    if array.dtype.kind != "f":
        return Verdict(name, None, f"constant: {array.dtype} is no float")
    if array.ndim == 0:
        return Verdict(name, None, "constant: a scalar")
    if not array.size:
        return Verdict(name, None, "constant: empty")
    seen: set[str] = set()
    queue = [name]
    reason = "constant: no layer uses it as a weight"
    while queue:
        value = queue.pop(0)
        for node, slot in consumers.get(value, []):
            kind = _slot_kind(node, slot, array)
            label = node.name or (node.output[0] if node.output else "?")
            if kind is not None:
                return Verdict(name, kind, f"{kind} of {node.op_type} {label}")
            if node.op_type in ELEMENTWISE:
                reason = f"constant: looks like a mask or a fixed scale in {node.op_type} {label}"
            if (node.op_type in VIEWS and slot == 0) or node.op_type == "Concat":
                queue += [out for out in node.output if out and out not in seen]
                seen.update(node.output)
    return Verdict(name, None, reason)


def _slot_kind(node: onnx.NodeProto, slot: int, array: Array) -> Kind | None:
    kind = SLOTS.get(node.op_type, {}).get(slot)
    if kind is None and node.op_type in ELEMENTWISE and not _looks_constant(array):
        kind = ELEMENTWISE[node.op_type]
        # A learned table that is added as a whole (position embeddings) is a weight, not a bias.
        if kind == "bias" and sum(size > 1 for size in array.shape) > 1:
            kind = "weight"
    return kind


def _looks_constant(array: Array) -> bool:
    """A mask or a fixed constant rather than a bias, a scale or a position table."""
    if array.size == 1 or not np.isfinite(array).all() or np.abs(array).max() >= MASK_MAGNITUDE:
        return True
    tensor_like = sum(size > 1 for size in array.shape) > 1
    return tensor_like and np.unique(array).size <= 2


def select(verdicts: Iterable[Verdict], patterns: Sequence[str] | None) -> list[Verdict]:
    """The trainable ones. Patterns (`conv1.*`) choose among weights by name; one that matches none is an
    error.
    """
    weights = [v for v in verdicts if v.kind is not None]
    if not weights:
        raise AutodiffError(
            "the model has no trainable parameter: every initializer is a constant or an integer. Export it with "
            "float weights as initializers; `edgerig model inspect` says of each why it is none"
        )
    if patterns is None:
        return weights
    chosen = [v for v in weights if any(fnmatchcase(v.name, pattern) for pattern in patterns)]
    for pattern in patterns:
        if not any(fnmatchcase(v.name, pattern) for v in weights):
            raise AutodiffError(
                f"trainable pattern {pattern!r} matches no parameter. "
                f"Parameters: {', '.join(v.name for v in weights)}"
            )
    return chosen
