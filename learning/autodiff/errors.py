"""What can be wrong with a model somebody brings: every message names the node and what to do about it."""

from __future__ import annotations


class AutodiffError(ValueError):
    """The model cannot be trained as it is."""


class UnsupportedOperator(AutodiffError):
    """A node on the way from the loss to a parameter has no gradient rule."""

    def __init__(self, op_type: str, node: str, supported: list[str]) -> None:
        super().__init__(
            f"operator {op_type} (node {node!r}) has no gradient rule. Freeze the parameters before it "
            f"(trainable patterns), replace the operator, or add a rule in learning/autodiff/rules/. "
            f"Operators with a rule: {', '.join(supported)}"
        )
        self.op_type = op_type
        self.node = node
