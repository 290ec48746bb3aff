"""GELU as exporters write it, x/2·(1 + erf(x/√2)), found and differentiated as the one function it is.

Operator by operator its gradient takes twelve passes over the tensor; as a whole six:
dy·(Φ + x·φ), where Φ is kept from the forward pass. Φ = (1 + erf)/2 is one pass, too: HardSigmoid with slope and
offset 1/2 never clips what lies between −1 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from learning.autodiff.graph import Graph, Tensor
from learning.autodiff.observe import Observed
from learning.autodiff.registry import COMPOSITE

TOLERANCE = 1e-5  # of the constants ½, 1 and √½, which exporters round to float32


@dataclass
class _Model:
    """Who makes and who reads each value, and which are numbers."""

    made: dict[str, onnx.NodeProto]
    readers: dict[str, list[onnx.NodeProto]]
    numbers: Mapping[str, float]

    @staticmethod
    def of(observed: Observed) -> _Model:
        made: dict[str, onnx.NodeProto] = {}
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in observed.model.graph.node:
            made.update(dict.fromkeys(node.output, node))
            for name in node.input:
                readers.setdefault(name, []).append(node)
        known = {**observed.weights, **observed.constants}
        numbers = {
            n: float(a.reshape(-1)[0]) for n, a in known.items() if a.size == 1 and a.dtype.kind == "f"
        }
        return _Model(made, readers, numbers)

    def other(self, node: onnx.NodeProto | None, kind: str, number: float) -> str | None:
        """The operand beside `number` of a node of that kind."""
        if node is None or node.op_type != kind:
            return None
        for here, there in ((0, 1), (1, 0)):
            if abs(self.numbers.get(node.input[here], math.inf) - number) < TOLERANCE:
                return str(node.input[there])
        return None

    def reader(self, name: str) -> onnx.NodeProto | None:
        """The only reader of a value."""
        found = self.readers.get(name, [])
        return found[0] if len(found) == 1 else None


def _source(m: _Model, erf: onnx.NodeProto) -> str | None:
    """x, where erf's input is x·√½ or x/√2."""
    node = m.made.get(erf.input[0])
    if node is not None and node.op_type == "Div":
        divided = abs(m.numbers.get(node.input[1], math.inf) - math.sqrt(2)) < TOLERANCE
        return node.input[0] if divided else None
    return m.other(node, "Mul", math.sqrt(0.5))


def _match(m: _Model, erf: onnx.NodeProto) -> tuple[onnx.NodeProto, str] | None:
    """The last node of a GELU around `erf`, and its x. Three orders of the factors x, ½ and 1 + erf."""
    x, plus = _source(m, erf), m.reader(erf.output[0])
    if x is None or m.other(plus, "Add", 1.0) is None or plus is None:
        return None
    product = m.reader(plus.output[0])
    if product is None or product.op_type != "Mul":
        return None
    other = next((n for n in product.input if n != plus.output[0]), "")
    if m.other(m.made.get(other), "Mul", 0.5) == x:
        return product, x  # (x·½)·(1 + erf)
    last = m.reader(product.output[0])
    if other == x and m.other(last, "Mul", 0.5) is not None and last is not None:
        return last, x  # (x·(1 + erf))·½
    if m.other(product, "Mul", 0.5) is not None and last is not None and last.op_type == "Mul":
        return (last, x) if x in last.input else None  # x·((1 + erf)·½)
    return None


def merge_gelu(observed: Observed) -> onnx.ModelProto | None:
    """The model with every GELU in the form above; None if it has none. What is left over is pruned later."""
    m = _Model.of(observed)
    found: dict[str, str] = {}
    for node in observed.model.graph.node:
        if node.op_type == "Erf" and (match := _match(m, node)) is not None:
            found[match[0].output[0]] = match[1]
        elif node.op_type == "Gelu" and not any(
            a.name == "approximate" and a.s == b"tanh" for a in node.attribute
        ):
            found[node.output[0]] = node.input[0]
    if not found:
        return None
    model = onnx.ModelProto()
    model.CopyFrom(observed.model)
    nodes: list[onnx.NodeProto] = []
    for node in observed.model.graph.node:
        if node.output[0] not in found:
            nodes.append(node)
            continue
        graph = Graph(observed.opset, observed.dtypes[node.output[0]])
        graph.prefix = f"{node.output[0]}/gelu/"
        _written_out(graph, Tensor(found[node.output[0]], graph, None, graph.dtype), node.output[0])
        nodes += graph.nodes
        model.graph.initializer.extend(graph.initializers(set(graph.constants)))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _written_out(g: Graph, x: Tensor, output: str) -> None:
    scaled = x * float(np.sqrt(0.5))
    cdf = g.op("HardSigmoid", g.op("Erf", scaled), alpha=0.5, beta=0.5)
    node = helper.make_node("Mul", [x.name, cdf.name], [output], name=output)
    mark = node.metadata_props.add()
    mark.key, mark.value = COMPOSITE, f"gelu {scaled.name}"
    g.nodes.append(node)
