"""Check one operator's gradient rule: analytic gradients by onnxruntime against derivatives found
independently.

Nonlinear operators: central differences in float64 of the forward pass, run by ONNX's reference evaluator (a
second implementation). Linear ones: the adjoint identity ⟨dy, f(x)⟩ = ⟨dx, x⟩, which is exact and needs no
step size.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from learning.autodiff.backward import Backward
from learning.autodiff.graph import Tensor, prune
from learning.autodiff.observe import observe
from learning.autodiff.training_graph import forward_graph

OPSET = 20


def model_of(nodes, arrays, outputs=("y",), opset=OPSET):
    """A model whose first array is the data input and whose others are initializers."""
    first, *rest = arrays
    value = helper.make_tensor_value_info(
        first, helper.np_dtype_to_tensor_dtype(arrays[first].dtype), arrays[first].shape
    )
    graph = helper.make_graph(
        nodes,
        "op",
        [value],
        [helper.make_empty_tensor_value_info(o) for o in outputs],
        initializer=[numpy_helper.from_array(arrays[name], name) for name in rest],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    return model


def run(model, feeds):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options).run(None, feeds)


def gradient_model(model, wanted, seeds):
    """The model's reverse pass: inputs are the wanted values and one `d:<output>` per seed, outputs
    `g:<name>`.
    """
    value = model.graph.input[0]
    observed = observe(model, value.type.tensor_type.shape.dim[0].dim_value or 1)
    graph = forward_graph(observed, set(wanted))
    tensors = {n: Tensor(n, graph, s, observed.dtypes[n]) for n, s in observed.shapes.items()}
    forward, graph.nodes = list(graph.nodes), []
    given = {o: Tensor(f"d:{o}", graph, observed.shapes[o], observed.dtypes[o]) for o in seeds}
    grads = Backward(graph, forward, tensors).run(given, wanted)
    outputs = [f"g:{name}" for name in wanted]
    for name in wanted:
        graph.nodes.append(helper.make_node("Identity", [grads[name].name], [f"g:{name}"]))
    nodes, used = prune([*forward, *graph.nodes], outputs)
    names = dict.fromkeys([value.name, *wanted])
    info = [_info(n, observed) for n in names] + [_info(o, observed, f"d:{o}") for o in seeds]
    made = helper.make_graph(
        nodes,
        "gradient",
        info,
        [helper.make_empty_tensor_value_info(o) for o in outputs],
        initializer=[t for t in graph.initializers(used) if t.name not in names],
    )
    result = helper.make_model(made, opset_imports=list(observed.model.opset_import))
    result.ir_version = 9
    return result


def _info(name, observed, label=None):
    return helper.make_tensor_value_info(
        label or name, helper.np_dtype_to_tensor_dtype(observed.dtypes[name]), observed.shapes[name]
    )


def gradients(nodes, arrays, wanted, dys, opset=OPSET):
    model = model_of(nodes, arrays, tuple(dys), opset)
    made = gradient_model(model, wanted, list(dys))
    feeds = {name: arrays[name] for name in dict.fromkeys([next(iter(arrays)), *wanted])}
    return run(made, {**feeds, **{f"d:{name}": dy for name, dy in dys.items()}})


def error(a, b):
    """max|a−b| / max|b|, the project's measure of gradient error."""
    return float(np.abs(np.asarray(a, np.float64) - b).max() / max(np.abs(b).max(), 1e-12))


def check_numeric(nodes, arrays, wanted, outputs=("y",), opset=OPSET, tolerance=2e-5, step=1e-6, seed=0):
    """Every partial derivative by central differences in float64."""
    rng = np.random.default_rng([seed, 99])  # not the stream the inputs came from: ⟨x, f(x)⟩ can be flat
    arrays = {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in arrays.items()}
    wide = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in arrays.items()}
    evaluator = ReferenceEvaluator(_widened(model_of(nodes, arrays, outputs, opset), wide))
    first = next(iter(arrays))
    inputs = {name: wide[name] for name in wide}
    shapes = [out.shape for out in evaluator.run(None, inputs)]
    dys = {o: rng.standard_normal(s).astype(np.float32) for o, s in zip(outputs, shapes, strict=True)}
    got = gradients(nodes, arrays, wanted, dys, opset)

    def total(values):
        return sum(
            float((dy * y).sum()) for dy, y in zip(dys.values(), evaluator.run(None, values), strict=True)
        )

    assert first in inputs
    for name, grad in zip(wanted, got, strict=True):
        numeric = np.zeros(wide[name].shape)
        for index in np.ndindex(*wide[name].shape):
            moved = {sign: wide[name].copy() for sign in (1, -1)}
            for sign in moved:
                moved[sign][index] += sign * step
            plus, minus = (total({**inputs, name: moved[sign]}) for sign in (1, -1))
            numeric[index] = (plus - minus) / (2 * step)
        assert grad.shape == numeric.shape
        assert error(grad, numeric) <= tolerance, (name, grad, numeric)


def _widened(model, wide):
    """The same model with every array an input, in float64."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.input[:]
    del copy.graph.initializer[:]
    for name, array in wide.items():
        copy.graph.input.append(
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        )
    return copy


def check_adjoint(nodes, arrays, linear_in, output="y", opset=OPSET, tolerance=3e-6, seed=0):
    """⟨dy, f(x)⟩ = ⟨dx, x⟩ for each input in which the operator is linear, in float32 by onnxruntime."""
    rng = np.random.default_rng(seed)
    first = next(iter(arrays))
    (y,) = run(model_of(nodes, arrays, (output,), opset), {first: arrays[first]})
    dy = rng.standard_normal(y.shape).astype(np.float32)
    got = gradients(nodes, arrays, linear_in, {output: dy}, opset)
    want = float((dy.astype(np.float64) * y).sum())
    scale = float(np.sqrt((dy.astype(np.float64) ** 2).sum() * (y.astype(np.float64) ** 2).sum())) or 1.0
    for name, grad in zip(linear_in, got, strict=True):
        assert grad.shape == arrays[name].shape
        have = float((grad.astype(np.float64) * arrays[name]).sum())
        assert abs(have - want) / scale <= tolerance, (name, have, want)
    return dict(zip(linear_in, got, strict=True))
