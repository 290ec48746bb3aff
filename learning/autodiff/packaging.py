"""Writing graphs: what comes before the model (scaling), what it is called (names), and its bytes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from learning.artifact import InputSpec
from learning.autodiff.graph import prune
from learning.autodiff.observe import STANDARD, data_input

IR_VERSION_MOST = 10  # read by onnxruntime 1.18 and newer

ELEMENT = {
    "uint8": TensorProto.UINT8,
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
}


INNER = "v:"  # before every value of the model itself: its names never meet those of the interface


def inner(tensor: onnx.TensorProto) -> onnx.TensorProto:
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.name = INNER + tensor.name
    return copy


def rename(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, INNER + name) if name else "" for name in node.input]
    copy.output[:] = [names.get(name, INNER + name) if name else "" for name in node.output]
    copy.doc_string = ""
    del copy.metadata_props[:]
    return copy


def finish(graph: onnx.GraphProto, source: onnx.ModelProto) -> bytes:
    """Deterministic bytes of a model that older runtimes read, too."""
    # Exporters import domains that no node uses; a runtime that lacks one refuses the file.
    standard = [entry for entry in source.opset_import if entry.domain in STANDARD]
    model = helper.make_model(graph, opset_imports=standard, producer_name="edgerig")
    model.ir_version = min(model.ir_version, IR_VERSION_MOST)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def scaling_nodes(feed: InputSpec, target: str, element: int) -> list[onnx.NodeProto]:
    """x → the model's input: cast, then scale and shift if that changes anything."""
    nodes = [helper.make_node("Cast", ["x"], ["_x_float"], to=element)]
    constant = helper.make_node
    last = "_x_float"
    for op_type, number, neutral in (("Mul", feed.scale, 1.0), ("Add", feed.offset, 0.0)):
        if number != neutral:
            value = numpy_helper.from_array(np.asarray(number, helper.tensor_dtype_to_np_dtype(element)))
            nodes.append(constant("Constant", [], [f"_x_{op_type}"], value=value))
            nodes.append(helper.make_node(op_type, [last, f"_x_{op_type}"], [f"_x_{op_type}ed"]))
            last = f"_x_{op_type}ed"
    nodes.append(helper.make_node("Identity", [last], [INNER + target]))
    return nodes


def inference_graph(
    model: onnx.ModelProto, trained: set[str], feed: InputSpec, dims: Mapping[str, int] | None
) -> bytes:
    """The model itself, fed raw samples, its trained parameters as inputs; the batch stays dynamic if it
    was.
    """
    source = data_input(model)
    first = source.type.tensor_type.shape.dim[0]
    batch: int | str = first.dim_value if first.HasField("dim_value") else "batch"
    names = {name: f"p:{name}" for name in trained}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in trained]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    inputs = [helper.make_tensor_value_info("x", ELEMENT[feed.dtype], [batch, *feed.shape])]
    inputs += [
        helper.make_tensor_value_info(names[n], TensorProto.FLOAT, list(weights[n].dims))
        for n in weights
        if n in trained
    ]
    first_output = model.graph.output[0]
    nodes, used = prune(model.graph.node, [first_output.name])
    graph = helper.make_graph(
        [
            *scaling_nodes(feed, source.name, source.type.tensor_type.elem_type),
            *(rename(node, names) for node in nodes),
            helper.make_node("Identity", [INNER + first_output.name], ["output"]),
        ],
        "inference",
        inputs,
        [helper.make_empty_tensor_value_info("output")],
        initializer=[inner(tensor) for tensor in kept if tensor.name in used],
    )
    graph.output[0].type.tensor_type.elem_type = first_output.type.tensor_type.elem_type
    return finish(graph, model)
