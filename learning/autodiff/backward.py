"""The reverse pass: from gradients of outputs to gradients of parameters, one rule per node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
from onnx import helper

import learning.autodiff.rules  # noqa: F401 - fills the table
from learning.autodiff.errors import UnsupportedOperator
from learning.autodiff.graph import Graph, Tensor
from learning.autodiff.registry import COMPOSITE, COMPOSITES, NO_GRADIENT, RULES, Node, Product, supported

FUSE_WITHIN = 64  # nodes back that a summand may have been made by, to be fused with its sum


class Backward:
    """One reverse pass over `nodes`. `tensors` gives shape and type of every forward value."""

    def __init__(self, graph: Graph, nodes: list[onnx.NodeProto], tensors: Mapping[str, Tensor]) -> None:
        self.graph = graph
        self.nodes = nodes
        self.tensors = tensors
        self.pending: dict[str, list[Tensor | Product]] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def run(self, seeds: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
        """Gradients of `wanted`, given those of some outputs. A name nothing flows to is missing in the
        result.
        """
        wanted = set(wanted)
        reached = self._reached_from(wanted)
        self.pending = {name: [grad] for name, grad in seeds.items() if name in reached}
        for node in reversed(self.nodes):
            if any(name in self.pending for name in node.output) and reached.intersection(node.input):
                self._differentiate(node, reached)
        return {name: grad for name in wanted if (grad := self._total(name)) is not None}

    def _reached_from(self, wanted: set[str]) -> set[str]:
        """Every value a wanted one has influence on: only those need gradients."""
        reached = set(wanted)
        for node in self.nodes:
            if node.op_type not in NO_GRADIENT and reached.intersection(node.input):
                reached.update(name for name in node.output if name)
        return reached

    def _total(self, name: str) -> Tensor | None:
        """The sum of what all consumers sent back: fan-out and tied weights meet here."""
        grads = [g for g in self.pending.get(name, []) if isinstance(g, Tensor)]
        products = [g for g in self.pending.get(name, []) if isinstance(g, Product)]
        if products:
            grads.append(self._multiplied(products))
        if not grads:
            return None
        total = self._sum(name, grads)
        self.pending[name] = [total]
        return total

    def _sum(self, name: str, grads: list[Tensor]) -> Tensor:
        """Σ grads. A negated or multiplied-out one takes the others along: a node and a pass less each."""
        if len(grads) == 1:
            return grads[0]
        made = {node.output[0]: node for node in self.graph.nodes[-FUSE_WITHIN:]}
        for index, grad in enumerate(grads):
            node, rest = made.get(grad.name), [*grads[:index], *grads[index + 1 :]]
            if node is not None and node.op_type == "Neg":
                others = self._sum(name, rest)
                return others - Tensor(node.input[0], self.graph, others.shape, grad.dtype)
            if node is not None and node.op_type == "Gemm" and len(node.input) == 2:
                return self._gemm_onto(node, self._sum(name, rest))
        return grads[0] + grads[1] if len(grads) == 2 else self.graph.op("Sum", *grads)

    def _gemm_onto(self, node: onnx.NodeProto, start: Tensor) -> Tensor:
        """A·B + start; the node without `start` is pruned, since nobody reads it any more."""
        a, b = (Tensor(name, self.graph, None, start.dtype) for name in node.input)
        attributes = {x.name: helper.get_attribute_value(x) for x in node.attribute}
        return self.graph.op("Gemm", a, b, start, **attributes)

    def _multiplied(self, products: list[Product]) -> Tensor:
        """Σ leftᵀ·right as one product over everything stacked."""
        left, right = products[0].left, products[0].right
        if len(products) > 1:
            products = products[::-1]  # in the order of time, so that onnxruntime sees equal Concats once
            left = self.graph.op("Concat", *(p.left for p in products), axis=0)
            right = self.graph.op("Concat", *(p.right for p in products), axis=0)
        return self.graph.op("Gemm", left, right, transA=1)

    def _mixed(self, name: str) -> tuple[Tensor, Tensor] | None:
        """If all that is done with a value y is o = y·v, then o and its gradient; see `Node.mixed`."""
        readers = self.readers.get(name, [])
        if len(readers) != 1 or readers[0].op_type != "MatMul" or readers[0].input[0] != name:
            return None
        made = readers[0].output[0]
        gradient = self._total(made)
        y, o = self.tensors[name], self.tensors[made]
        if gradient is None or y.rank < 2 or y.dims[:-1] != o.dims[:-1] or o.dims[-1] >= y.dims[-1]:
            return None
        return o, gradient

    def _differentiate(self, proto: onnx.NodeProto, reached: set[str]) -> None:
        entry = RULES.get(proto.op_type) if proto.domain in ("", "ai.onnx") else None
        if entry is None:
            operator = f"{proto.domain}.{proto.op_type}" if proto.domain else proto.op_type
            raise UnsupportedOperator(operator, proto.name or proto.output[0], supported())
        node = Node(
            proto,
            self.graph,
            inputs=[self.tensors[name] if name else None for name in proto.input],
            outputs=[self.tensors[name] if name else self.graph.constant(0) for name in proto.output],
            grads=[self._total(name) if name else None for name in proto.output],
            wanted=[name in reached for name in proto.input],
            mixed=self._mixed(proto.output[0]),
        )
        whole = next((p.value.split() for p in proto.metadata_props if p.key == COMPOSITE), None)
        result = COMPOSITES[whole[0]](node, whole[1:]) if whole else entry.rule(node)
        grads = [result] if isinstance(result, Tensor | Product) or result is None else list(result)
        for name, grad in zip(proto.input, grads, strict=False):
            if grad is not None and name in reached:
                self.pending.setdefault(name, []).append(grad)
