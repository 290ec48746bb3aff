"""Learn shapes, types and constants of every value by running the model once.

With all dimensions bound, one run of the forward pass on zeros says more than shape inference can: the exact
shape of every value, and the value of everything that depends on shapes and constants alone (the
Shape/Gather/Concat arithmetic exporters leave behind). What is constant is folded; what depends on the data
never is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from learning.autodiff.errors import AutodiffError
from learning.autodiff.graph import Array, Shape

CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
QUANTIZED = {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
}
RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}
SHAPE_ONLY = {"Shape", "Size"}  # constant whatever the data, once shapes are bound
# Axes of Squeeze, Unsqueeze and ReduceSum became inputs; older forms are not worth a second rule.
OPSET_MIN = 13
NOISE = "noise:"  # inputs a rewrite added; the device fills them
STANDARD = ("", "ai.onnx")  # names of ONNX's own domain
INPUT_BYTES_MAX = 1 << 30  # a batch of samples beyond this fits no device, and fills the operator's machine
FOLD_BYTES_MAX = 64 << 20  # a folded constant above this would bloat the artifact every device must fetch


@dataclass
class Observed:
    """A model with everything known: `shapes` and `dtypes` of all values, `constants` of the foldable
    ones.
    """

    model: onnx.ModelProto
    opset: int
    input: onnx.ValueInfoProto
    output: str
    shapes: dict[str, Shape]
    dtypes: dict[str, np.dtype[Any]]
    constants: dict[str, Array]
    weights: dict[str, Array]


def default_opset(model: onnx.ModelProto) -> int:
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            return int(entry.version)
    raise AutodiffError("the model imports no ONNX operator set: is it an ONNX inference model?")


def check_model(model: onnx.ModelProto) -> None:
    """Refuse what can never be trained, before any work is done."""
    opset = default_opset(model)
    if opset < OPSET_MIN:
        raise AutodiffError(f"opset {opset} is too old: export the model with opset {OPSET_MIN} or newer")
    for node in model.graph.node:
        if node.domain not in STANDARD:
            raise AutodiffError(
                f"node {node.name or node.output[0]!r} is {node.domain}.{node.op_type}, no operator of ONNX: export "
                "the model in standard operators (onnxruntime's optimized files cannot be trained)"
            )
        if node.op_type in CONTROL_FLOW:
            raise AutodiffError(
                f"node {node.name or node.output[0]!r} is control flow ({node.op_type}): "
                "export the model with static control flow (trace it, unroll its loops)"
            )
        if node.op_type in QUANTIZED:
            raise AutodiffError(
                f"node {node.name or node.output[0]!r} computes with integers ({node.op_type}): a quantized model "
                "cannot be trained; export the float model it was made from"
            )
    if not model.graph.output:
        raise AutodiffError("the model has no output")
    for tensor in [*model.graph.initializer, *_constants(model)]:
        array = to_array(tensor)
        # An infinity is how exporters write masks; a NaN can only be damage.
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise AutodiffError(f"parameter {tensor.name!r} holds NaN: train from a sound checkpoint")


def _constants(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Tensors written as Constant nodes, by the names of their nodes' outputs."""
    found = []
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else []:
            if attribute.name == "value":
                tensor = onnx.TensorProto()
                tensor.CopyFrom(attribute.t)
                tensor.name = node.output[0]
                found.append(tensor)
    return found


def to_array(tensor: onnx.TensorProto) -> Array:
    try:
        array: Array = numpy_helper.to_array(tensor)
    except Exception as error:
        raise AutodiffError(
            f"initializer {tensor.name!r} cannot be read ({error}): truncated file?"
        ) from error
    return array


def data_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    names = {tensor.name for tensor in model.graph.initializer}
    inputs = [v for v in model.graph.input if v.name not in names and not v.name.startswith(NOISE)]
    if len(inputs) != 1:
        raise AutodiffError(
            f"the model has {len(inputs)} data inputs ({', '.join(v.name for v in inputs) or 'none'}); "
            "exactly one is trained on: merge them or make the others constants"
        )
    return inputs[0]


def bind(model: onnx.ModelProto, batch_size: int, dims: Mapping[str, int] | None = None) -> onnx.ModelProto:
    """A copy of the model with the batch and all named dimensions of its data input fixed."""
    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    value = data_input(bound)
    shape = value.type.tensor_type.shape.dim
    if not shape:
        raise AutodiffError(f"input {value.name!r} has no shape: export the model with one")
    for axis, dim in enumerate(shape):
        name = dim.dim_param
        if axis == 0:
            if dim.HasField("dim_value") and dim.dim_value not in (1, batch_size):
                raise AutodiffError(
                    f"input {value.name!r} was exported with a fixed batch of {dim.dim_value}, "
                    f"not {batch_size}: "
                    "export it with a dynamic batch axis"
                )
            dim.dim_value = batch_size
        elif not dim.HasField("dim_value"):
            if name not in (dims or {}):
                raise AutodiffError(
                    f"dimension {name or axis!r} of input {value.name!r} is dynamic: bind it "
                    f"(dims: {name or axis}=..., or --dim {name or axis}=N)"
                )
            dim.dim_value = dict(dims or {})[name]
    _require_size(value)
    del bound.graph.value_info[:]
    for output in bound.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    return bound


def _require_size(value: onnx.ValueInfoProto) -> None:
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    if min(shape) < 1 or 4 * math.prod(shape) > INPUT_BYTES_MAX:
        raise AutodiffError(
            f"input {value.name!r} has shape {shape}: dimensions from 1 on, and a batch of at most "
            f"{INPUT_BYTES_MAX >> 20} MiB can be fed; take a smaller batch or other dims"
        )


def _zeros(value: onnx.ValueInfoProto) -> Array:
    tensor_type = value.type.tensor_type
    shape = [dim.dim_value for dim in tensor_type.shape.dim]
    return np.zeros(shape, helper.tensor_dtype_to_np_dtype(tensor_type.elem_type))


def run_once(model: onnx.ModelProto, names: list[str], value: onnx.ValueInfoProto) -> dict[str, Array]:
    """Every named value for an input of zeros."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    tensor_type = value.type.tensor_type
    shape = [dim.dim_value for dim in tensor_type.shape.dim]
    feeds = {v.name: _zeros(v) for v in model.graph.input if v.name == value.name or v.name.startswith(NOISE)}
    try:
        session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:
        hint = " (was it exported with a fixed batch of 1?)" if "reshape" in str(error).lower() else ""
        raise AutodiffError(f"onnxruntime cannot run the model with shape {shape}{hint}: {error}") from error


def observe(model: onnx.ModelProto, batch_size: int, dims: Mapping[str, int] | None = None) -> Observed:
    check_model(model)
    bound = bind(model, batch_size, dims)
    value = data_input(bound)
    names = [name for node in bound.graph.node for name in node.output if name]
    values = run_once(bound, names, value)
    for name, found in values.items():
        if not isinstance(found, np.ndarray):
            raise AutodiffError(
                f"value {name!r} is a sequence or optional: export the model with tensors alone"
            )
    weights = {tensor.name: to_array(tensor) for tensor in bound.graph.initializer}
    feed_shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    shapes: dict[str, Shape] = {name: array.shape for name, array in {**weights, **values}.items()}
    dtypes = {name: array.dtype for name, array in {**weights, **values}.items()}
    shapes[value.name] = feed_shape
    dtypes[value.name] = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    constants = _foldable(bound, values, weights)
    return Observed(
        bound, default_opset(bound), value, bound.graph.output[0].name, shapes, dtypes, constants, weights
    )


def _foldable(
    model: onnx.ModelProto, values: dict[str, Array], weights: dict[str, Array]
) -> dict[str, Array]:
    """Values that no data and no float weight reaches. Float initializers stay out: they may be trained."""
    known: dict[str, Array] = {n: a for n, a in weights.items() if a.dtype.kind != "f" or a.ndim == 0}
    for node in model.graph.node:
        inputs = [name for name in node.input if name]
        fixed = node.op_type in SHAPE_ONLY or all(name in known for name in inputs)
        if not fixed or node.op_type in RANDOM:
            continue
        outputs = {name: values[name] for name in node.output if name}
        if sum(array.nbytes for array in outputs.values()) <= FOLD_BYTES_MAX:
            known.update(outputs)
    return known
