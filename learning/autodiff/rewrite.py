"""Rewrites of the forward pass before it is differentiated.

recurrent layers   unrolled into the matrix products and gates they consist of, at the observed length;
BatchNormalization from fixed to batch statistics, if asked: running statistics become state;
Dropout            from nothing to a mask made of noise the device draws, if asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from learning.autodiff.errors import AutodiffError
from learning.autodiff.graph import Graph, Shape, Tensor
from learning.autodiff.observe import Observed
from learning.autodiff.recurrent import unroll_gru, unroll_lstm

Expand = Callable[[Graph, onnx.NodeProto, dict[str, Tensor]], list[Tensor | None]]
EXPANSIONS: dict[str, Expand] = {"GRU": unroll_gru, "LSTM": unroll_lstm}

MOMENTUM = 0.9  # of running statistics, ONNX's sense: 1 − PyTorch's default of 0.1


@dataclass
class Rewritten:
    """The model after all rewrites. `state`: running statistic → its new value; `noise`: extra inputs of a
    step.
    """

    model: onnx.ModelProto
    changed: bool = False
    state: dict[str, str] = field(default_factory=dict)
    noise: dict[str, Shape] = field(default_factory=dict)
    variances: set[str] = field(default_factory=set)  # of `state`


def inference_mode(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model exported in training mode as it is evaluated: BatchNormalization with its running statistics, Dropout
    that lets everything pass. What `rewrite` is asked to switch on is switched on from there.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        if node.op_type == "BatchNormalization":
            kept = [a for a in node.attribute if a.name != "training_mode"]
            del node.attribute[:]
            node.attribute.extend(kept)
            del node.output[1:]
        elif node.op_type == "Dropout":
            del node.input[2:]
    return result


def rewrite(observed: Observed, batch_norm: str = "frozen", dropout: bool = False) -> Rewritten:
    model = onnx.ModelProto()
    model.CopyFrom(observed.model)
    result = Rewritten(model)
    nodes: list[onnx.NodeProto] = []
    for node in observed.model.graph.node:
        if node.op_type in EXPANSIONS:
            nodes += _expanded(observed, node, model)
            result.changed = True
        elif node.op_type == "BatchNormalization" and batch_norm == "train":
            nodes.append(_training_mode(node, result))
        elif node.op_type == "Dropout" and dropout:
            nodes += _masked(observed, node, result)
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return result


def _expanded(observed: Observed, node: onnx.NodeProto, model: onnx.ModelProto) -> list[onnx.NodeProto]:
    graph = Graph(observed.opset, observed.dtypes[observed.output])
    graph.prefix = f"{node.output[0] or node.name}/"
    tensors = {
        name: Tensor(name, graph, observed.shapes[name], observed.dtypes[name]) for name in node.input if name
    }
    outputs = EXPANSIONS[node.op_type](graph, node, tensors)
    for name, tensor in zip(node.output, outputs, strict=False):
        if name and tensor is not None:
            graph.nodes.append(helper.make_node("Identity", [tensor.name], [name]))
    model.graph.initializer.extend(graph.initializers(set(graph.constants)))
    return graph.nodes


def _training_mode(node: onnx.NodeProto, result: Rewritten) -> onnx.NodeProto:
    """Batch statistics. The node gives the new running statistics as two more outputs."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    kept = [a for a in node.attribute if a.name not in ("training_mode", "momentum")]
    momentum = next((a.f for a in node.attribute if a.name == "momentum"), MOMENTUM)
    del copy.attribute[:]
    copy.attribute.extend([*kept, helper.make_attribute("training_mode", 1)])
    copy.attribute.append(helper.make_attribute("momentum", float(momentum)))
    del copy.output[1:]
    for statistic in node.input[3:5]:
        if statistic in result.state:
            raise AutodiffError(f"running statistic {statistic!r} is shared by two BatchNormalization nodes")
        result.state[statistic] = f"{statistic}/new"
        copy.output.append(result.state[statistic])
    result.variances.add(node.input[4])
    result.changed = True
    return copy


def _masked(observed: Observed, node: onnx.NodeProto, result: Rewritten) -> list[onnx.NodeProto]:
    """x · [noise ≥ ratio] / (1 − ratio); the noise is a uniform input of every step."""
    ratio = 0.5
    if len(node.input) > 1 and node.input[1]:
        known = observed.constants.get(node.input[1])
        if known is None:
            raise AutodiffError(f"Dropout {node.name!r}: its ratio is not constant")
        ratio = float(known)
    if not 0.0 < ratio < 1.0:
        return [helper.make_node("Identity", [node.input[0]], [node.output[0]])]
    name = f"noise:{len(result.noise)}"
    result.noise[name] = observed.shapes[node.input[0]]
    result.model.graph.input.append(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(result.noise[name]))
    )
    graph = Graph(observed.opset, np.dtype(np.float32))
    graph.prefix = f"{node.output[0]}/"
    noise = Tensor(name, graph, result.noise[name], np.dtype(np.float32))
    keep = graph.cast(graph.op("GreaterOrEqual", noise, graph.constant(np.float32(ratio))), np.float32)
    scaled = Tensor(node.input[0], graph, None, np.dtype(np.float32)) * (keep * (1.0 / (1.0 - ratio)))
    graph.nodes.append(helper.make_node("Identity", [scaled.name], [node.output[0]]))
    result.model.graph.initializer.extend(graph.initializers(set(graph.constants)))
    result.changed = True
    return graph.nodes
