"""The table of rules: operator → gradient function.

A rule takes a `Node` and returns the gradients of its inputs, in order; a single tensor stands for the first
input, None for an input that has none. `n.wants(i)` says whether anybody needs the gradient of input i:
expensive rules ask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import helper

from learning.autodiff.graph import Graph, Shape, Tensor


@dataclass(frozen=True)
class Product:
    """A gradient leftᵀ·right not yet multiplied out.

    A weight used many times (a recurrent layer's) gets one long product instead of a sum of many short ones.
    """

    left: Tensor
    right: Tensor


Gradients = Tensor | Product | None | Sequence["Tensor | Product | None"]
Rule = Callable[["Node"], Gradients]


@dataclass
class Node:
    """One forward node as its rule sees it."""

    proto: onnx.NodeProto
    graph: Graph
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    grads: list[Tensor | None]
    wanted: list[bool]
    mixed: tuple[Tensor, Tensor] | None = None  # o = y·v and do, if y has no other reader and o is narrower
    attributes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.attributes = {a.name: helper.get_attribute_value(a) for a in self.proto.attribute}

    @property
    def x(self) -> Tensor:
        return self.input(0)

    @property
    def y(self) -> Tensor:
        return self.outputs[0]

    @property
    def dy(self) -> Tensor:
        grad = self.grads[0]
        assert grad is not None, "a rule is only called with a gradient of its first output"
        return Tensor(grad.name, self.graph, self.y.shape, self.y.dtype)

    def input(self, index: int) -> Tensor:
        tensor = self.inputs[index]
        assert tensor is not None, f"{self.proto.op_type} needs input {index}"
        return tensor

    def has(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] is not None

    def wants(self, index: int) -> bool:
        return index < len(self.wanted) and self.wanted[index]

    def attr(self, name: str, default: Any = None) -> Any:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def ints(self, index: int, attribute: str = "") -> list[int] | None:
        """Integers given as a constant input (newer opsets) or as an attribute (older ones)."""
        if self.has(index):
            value = self.input(index).value
            if value is None:
                from learning.autodiff.errors import AutodiffError

                raise AutodiffError(
                    f"{self.proto.op_type} (node {self.proto.name!r}): input {index} depends on the data; "
                    "only constant shapes, axes and indices can be differentiated"
                )
            return [int(v) for v in value.reshape(-1)]
        found = self.attributes.get(attribute) if attribute else None
        return None if found is None else [int(v) for v in found]

    def unbroadcast(self, grad: Tensor, index: int, source: Shape | None = None) -> Tensor:
        return self.graph.unbroadcast(grad, source or self.y.dims, self.input(index).dims)


@dataclass(frozen=True)
class Entry:
    """A line of the table: the rule, what it does not cover, and where it is defined."""

    op_type: str
    rule: Rule
    notes: str
    family: str


RULES: dict[str, Entry] = {}

# A node that ends a pattern of several operators carries this key, and `name arguments` of the rule for the whole.
COMPOSITE = "edgerig.gradient"
COMPOSITES: dict[str, Callable[[Node, list[str]], Gradients]] = {}

# Operators through which no gradient flows: their outputs are integers, booleans or shapes, or piecewise
# constant.
NO_GRADIENT: frozenset[str] = frozenset(
    [
        "And",
        "ArgMax",
        "ArgMin",
        "Ceil",
        "Constant",
        "ConstantOfShape",
        "Equal",
        "EyeLike",
        "Floor",
        "Greater",
        "GreaterOrEqual",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "NonZero",
        "Not",
        "OneHot",
        "Or",
        "Range",
        "Round",
        "Shape",
        "Sign",
        "Size",
        "Xor",
    ]
)


def rule(*op_types: str, notes: str = "") -> Callable[[Rule], Rule]:
    """Register the gradient of one or more operators."""

    def register(function: Rule) -> Rule:
        family = function.__module__.rsplit(".", 1)[-1]
        for op_type in op_types:
            assert op_type not in RULES, f"two rules for {op_type}"
            RULES[op_type] = Entry(op_type, function, notes, family)
        return function

    return register


def composite(name: str) -> Callable[..., Any]:
    """Register the gradient of a pattern; it gets the node and the names of inner values it asked for."""

    def register(function: Callable[[Node, list[str]], Gradients]) -> Any:
        COMPOSITES[name] = function
        return function

    return register


def supported() -> list[str]:
    return sorted(RULES)
