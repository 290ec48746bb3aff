"""What exporters leave in graphs: shape arithmetic, old and new operator sets, masks, folded layers."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from learning_gradcheck import check_numeric, error, model_of
from onnx import helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotImplemented_

from learning.artifact import InputSpec, unflatten
from learning.autodiff import AutodiffError, build_training_graph, initial_parameters
from learning.autodiff.observe import OPSET_MIN, observe
from learning.models import build_model
from learning.prepare import inspect, load_model
from learning.session import StepSession

node = helper.make_node
RAW = InputSpec(dtype="float32", scale=1.0)


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ints(*numbers):
    return np.array(numbers, np.int64)


def newest_opset():
    """The newest operator set that both onnx and onnxruntime here know."""
    for opset in range(onnx.defs.onnx_opset_version(), OPSET_MIN, -1):
        model = model_of([node("Relu", ["x"], ["y"])], {"x": values(2, 2)}, opset=opset)
        try:
            options = ort.SessionOptions()
            options.log_severity_level = 4
            ort.InferenceSession(model.SerializeToString(), options)
        except (Fail, InvalidGraph, NotImplemented_):
            continue
        return opset
    raise AssertionError("no operator set at all")


def small_model(opset):
    """Convolution, pooling, reductions, shape operators, softmax: what changed its form between operator sets."""
    arrays = {
        "x": values(2, 1, 6, 6),
        "conv": values(3, 1, 3, 3, seed=1),
        "b": values(3, seed=2),
        "fc": values(12, 4, seed=3),
    }
    nodes = [
        node("Conv", ["x", "conv", "b"], ["c"]),
        node("Clip", ["c", "", "six"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Split", ["p", "one_two"], ["p1", "p2"], axis=1),
        node("Concat", ["p2", "p1"], ["q"], axis=1),
        node("Pad", ["q", "pads"], ["padded"]),
        node("Flatten", ["q"], ["f"]),
        node("MatMul", ["f", "fc"], ["z"]),
        node("ReduceSum", ["padded", "axes"], ["s"], keepdims=0),
        node("Unsqueeze", ["s", "last"], ["u"]),
        node("Add", ["z", "u"], ["y"]),
    ]
    constants = {
        "six": np.asarray(6.0, np.float32), "one_two": ints(1, 2), "pads": ints(0, 0, 1, 1, 0, 0, 0, 0),
        "axes": ints(1, 2, 3), "last": ints(-1),
    }  # fmt: skip
    return model_of(nodes, {**arrays, **constants}, opset=opset)


@pytest.mark.parametrize("opset", [13, 14, 15, 16, 17, 18, 19, 20, 21, newest_opset()])
def test_every_operator_set_gives_the_same_gradients(opset):
    def gradient(version):
        artifact = build_training_graph(small_model(version), batch_size=2, scaling=RAW)
        flat = initial_parameters(small_model(version), artifact)
        grad = np.empty_like(flat)
        step = StepSession(artifact, flat, grad)
        step.x[...], step.labels[...] = values(2, 1, 6, 6), [1, 3]
        step.run()
        return unflatten(artifact, grad)

    mine, theirs = gradient(opset), gradient(17)
    assert sorted(mine) == ["b", "conv", "fc"]
    for name in mine:
        assert error(mine[name], theirs[name]) < 1e-5


@pytest.mark.parametrize("opset", [17, newest_opset()])
def test_reference_models_train_in_the_newest_operator_set(opset):
    for name in ("cnn", "gru", "mobile-cnn"):
        model = build_model(name)
        if opset > 17:
            model = onnx.version_converter.convert_version(model, opset)
        scaling = RAW if name == "gru" else None
        artifact = build_training_graph(model, batch_size=2, scaling=scaling)
        flat = initial_parameters(model, artifact)
        grad = np.empty_like(flat)
        assert np.isfinite(StepSession(artifact, flat, grad).run())
        assert np.abs(grad).max() > 0


def test_shape_arithmetic_of_exporters_is_folded():
    """x.view(x.size(0), -1), masks made by ConstantOfShape, positions made by Range, sizes by Gather and Concat."""
    arrays = {"x": values(2, 3, 4), "w": values(4, 5, seed=1), "table": values(8, 5, seed=2)}
    arrays["row"] = values(1, 1, 5, seed=3)
    constants = {
        "zero": np.asarray(0), "one": np.asarray(1), "minus": ints(-1), "axis": ints(0), "two": ints(2),
        "five": ints(5), "step": np.asarray(1), "three": ints(3),
    }  # fmt: skip
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Shape", ["h"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Gather", ["shape", "one"], ["length"]),
        node("Unsqueeze", ["batch", "axis"], ["batch1"]),
        node("Unsqueeze", ["length", "axis"], ["length1"]),
        node("Range", ["zero", "length", "step"], ["positions"]),
        node("Gather", ["table", "positions"], ["p"]),
        node("Add", ["h", "p"], ["s"]),
        node("Concat", ["batch1", "length1", "five"], ["full"], axis=0),
        # How PyTorch writes x.expand(..., -1).
        node("ConstantOfShape", ["three"], ["ones"], value=numpy_helper.from_array(ints(1))),
        node("Mul", ["ones", "minus"], ["minuses"]),
        node("Equal", ["full", "minuses"], ["kept"]),
        node("Where", ["kept", "ones", "full"], ["size"]),
        node("Expand", ["row", "size"], ["rows"]),
        node("Add", ["s", "rows"], ["m"]),
        node("Concat", ["batch1", "minus"], ["flat"], axis=0),
        node("Reshape", ["m", "flat"], ["y"]),
    ]
    everything = {**arrays, **constants}
    check_numeric(nodes, everything, ["x", "w", "table", "row"], tolerance=1e-4)
    observed = observe(model_of(nodes, everything), 2)
    assert {"shape", "positions", "full", "kept", "size", "flat"} <= set(observed.constants)
    assert observed.constants["flat"].tolist() == [2, -1]


def test_masks_and_constants_are_never_trained():
    """ε, √2, −∞ masks and one-element scales, whatever they meet; infinities are no damage."""
    arrays = {
        "x": values(2, 3),
        "w": values(3, 3, seed=1),
        "eps": np.asarray(1e-5, np.float32),
        "root": np.asarray([1.4142135], np.float32),
        "mask": np.triu(np.full((2, 3), -np.inf, np.float32), 2),
        "fill": np.asarray([[-1e9]], np.float32),
    }
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Add", ["a", "eps"], ["b"]),
        node("Div", ["b", "root"], ["c"]),
        node("Add", ["c", "mask"], ["d"]),
        node("Max", ["d", "fill"], ["y"]),
    ]
    artifact = build_training_graph(model_of(nodes, arrays), batch_size=2, scaling=RAW)
    assert [p.name for p in artifact.parameters] == ["w"]


def test_quantized_models_are_refused_with_the_node():
    arrays = {"x": values(2, 3), "s": np.asarray(0.1, np.float32), "z": np.asarray(0, np.uint8)}
    model = model_of([node("QuantizeLinear", ["x", "s", "z"], ["y"], name="q0")], arrays)
    with pytest.raises(AutodiffError, match=r"'q0' computes with integers.*export the float model"):
        build_training_graph(model, batch_size=2)


def test_a_model_of_integers_only_says_what_to_do():
    arrays = {"x": np.zeros((2, 3), np.int64), "w": np.ones((3, 2), np.int64)}
    with pytest.raises(AutodiffError, match=r"no trainable parameter.*Export it with float weights"):
        build_training_graph(model_of([node("MatMul", ["x", "w"], ["y"])], arrays), batch_size=2)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_anywhere_is_refused(tmp_path, share):
    data = build_model("gru").SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(AutodiffError, match=r"cut.onnx is no valid ONNX model .*Export it again"):
        load_model(path)


def test_inspection_says_what_exporters_leave_out():
    notes = inspect(build_model("cnn"), 2).notes
    assert any("exporters fold it" in note for note in notes)
    assert any("exporters remove it" in note for note in notes)
    arrays = {
        "x": values(2, 3, 4), "w": values(3, 3, 1, seed=1), "s": np.ones(3, np.float32), "b": np.zeros(3, np.float32),
        "m": np.zeros(3, np.float32), "v": np.ones(3, np.float32),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        node("Dropout", ["n"], ["y"]),
    ]
    found = inspect(model_of(nodes, arrays), 2)
    assert any("frozen to its statistics" in note for note in found.notes)
    assert not any("remove it" in note for note in found.notes)
    assert {v.name for v in found.verdicts if v.kind is None} == {"m", "v"}
