"""Files that are no model, or one that cannot be trained: an error that names it, before any device starts."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
import pytest
from learning_gradcheck import error, model_of
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from edgerig.commands.model import app
from learning.artifact import InputSpec, unflatten
from learning.autodiff import AutodiffError, build_training_graph, initial_parameters
from learning.autodiff.observe import INPUT_BYTES_MAX
from learning.prepare import MODEL_BYTES_MAX, Check, load_model, rehearse
from learning.session import StepSession

node = helper.make_node
RAW = InputSpec(dtype="float32", scale=1.0)


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X, W = values(2, 4), values(4, 3, seed=1)
PRODUCT = node("MatMul", ["x", "w"], ["h"], name="product")


def model(*nodes, domains=(), **arrays):
    made = model_of([PRODUCT, *nodes], {"x": X, "w": W, **arrays}, outputs=("y",))
    made.opset_import.extend(helper.make_opsetid(domain, 1) for domain in domains)
    return made


def damaged(weight):
    return model(node("Relu", ["h"], ["y"]), w=weight)


def with_one(number):
    weight = W.copy()
    weight[1, 1] = number
    return weight


NAN_INSIDE = node("Constant", [], ["c"], value=numpy_helper.from_array(with_one(np.nan)[:3]))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (damaged(with_one(np.nan)), r"'w' holds NaN"),
        (damaged(with_one(np.inf)), r"'w' holds an infinity"),
        (model(NAN_INSIDE, node("MatMul", ["h", "c"], ["y"])), r"'c' holds NaN"),
        (damaged(np.zeros((4, 0), np.float32)), r"no trainable parameter"),
        (
            model(node("Gelu", ["h"], ["y"], domain="com.microsoft", name="g0"), domains=["com.microsoft"]),
            r"'g0' is com.microsoft.Gelu, no operator of ONNX.*standard operators",
        ),
        (
            model(
                node("SplitToSequence", ["h"], ["s"], axis=1),
                node("ConcatFromSequence", ["s"], ["y"], axis=1),
            ),
            r"'s' is a sequence",
        ),
        (
            model(node("ReduceMean", ["h", "a"], ["y"], keepdims=1), a=np.array([0])),
            r"shape \[1, 3\] for a batch of 2",
        ),
        (model(node("ReduceSum", ["h"], ["y"], keepdims=0)), r"shape \[\] for a batch of 2"),
        (
            model(node("CumSum", ["h", "a"], ["y"], name="sum0"), a=np.array(1)),
            r"operator CumSum \(node 'sum0'\) has no gradient rule.*replace the operator",
        ),
        (
            model(node("ArgMax", ["h"], ["k"], axis=1), node("Cast", ["k"], ["y"], to=TensorProto.FLOAT)),
            r"no chosen parameter has any influence",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(made, said):
    with pytest.raises(AutodiffError, match=said):
        build_training_graph(made, batch_size=2, scaling=RAW)


@pytest.mark.parametrize("size", [0, -5, 1 << 40])
def test_dimensions_that_no_machine_has(size):
    """Also one that a --dim asks for."""
    fixed = model(node("Relu", ["h"], ["y"]))
    fixed.graph.input[0].type.tensor_type.shape.dim[1].dim_value = size
    with pytest.raises(AutodiffError, match=rf"shape \[2, {size}\].*smaller batch"):
        build_training_graph(fixed, batch_size=2)
    assert INPUT_BYTES_MAX < 1 << 40


def saved(tmp_path, location="w.bin", length=48, actual=48):
    """A model whose weights lie in a file beside it."""
    made = model(node("Relu", ["h"], ["y"]))
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    made.graph.output[0].type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, [2, 3]))
    with (tmp_path / "w.bin").open("wb") as file:
        file.write(W.tobytes())
        file.truncate(actual)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    return tmp_path / "m.onnx"


def test_parameters_beside_the_model_are_read(tmp_path):
    loaded = load_model(saved(tmp_path))
    np.testing.assert_array_equal(numpy_helper.to_array(loaded.graph.initializer[0]), W)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"location": "gone.bin"}, "gone.bin"),
        ({"location": "../../../etc/passwd"}, "outside the directory"),
        ({"location": "/etc/passwd"}, "absolute path"),
        ({"length": 2 << 30}, r"has 2147483648 bytes beside it: at most"),
        ({"length": MODEL_BYTES_MAX + 1, "actual": MODEL_BYTES_MAX + 1}, r"bytes beside it: at most"),
        ({"length": "much"}, "Export it again"),
        ({"length": 40}, "Export it again"),
    ],
)
def test_parameters_beside_the_model_are_bounded_and_stay_beside_it(tmp_path, changes, said):
    with pytest.raises(AutodiffError, match=said):
        load_model(saved(tmp_path, **changes))


def gradient(made):
    artifact = build_training_graph(made, batch_size=2, scaling=RAW)
    flat = initial_parameters(made, artifact)
    grad = np.empty_like(flat)
    step = StepSession(artifact, flat, grad)
    step.x[...], step.labels[...] = X, [0, 2]
    step.run()
    return unflatten(artifact, grad)


def test_a_model_may_use_the_names_that_training_graphs_have():
    """loss_sum, labels, _const_1: they mean nothing special in somebody else's file."""
    nodes = [node("MatMul", ["x", "w"], ["correct"]), node("Mul", ["correct", "_const_1"], ["loss_sum"])]
    plain = [node("MatMul", ["x", "w"], ["h"]), node("Mul", ["h", "s"], ["y"])]
    scale = values(3, seed=2)
    mine = gradient(model_of(nodes, {"x": X, "w": W, "_const_1": scale}, outputs=("loss_sum",)))
    theirs = gradient(model_of(plain, {"x": X, "w": W, "s": scale}))
    assert error(mine["w"], theirs["w"]) == 0
    assert error(mine["_const_1"], theirs["s"]) == 0


def test_functions_of_the_file_are_looked_into():
    body = helper.make_function(
        "mine", "Layer", ["x", "w"], ["y"], [node("MatMul", ["x", "w"], ["y"])], [helper.make_opsetid("", 20)]
    )
    made = model_of([node("Layer", ["x", "w"], ["y"], domain="mine")], {"x": X, "w": W})
    made.opset_import.append(helper.make_opsetid("mine", 1))
    made.functions.append(body)
    theirs = gradient(model_of([node("MatMul", ["x", "w"], ["y"])], {"x": X, "w": W}))
    assert error(gradient(made)["w"], theirs["w"]) == 0


def test_domains_that_no_node_uses_stay_out_of_artifacts():
    artifact = build_training_graph(
        model(node("Relu", ["h"], ["y"]), domains=["com.microsoft", "ai.onnx.ml"]), batch_size=2, scaling=RAW
    )
    for graph in (artifact.training, artifact.inference):
        assert [entry.domain for entry in onnx.load_from_string(graph).opset_import] == [""]


def test_inspect_and_prepare_agree_on_what_cannot_be_trained(tmp_path):
    made = model_of(
        [node("MatMul", ["x", "w"], ["y"])], {"x": np.ones((2, 4), np.int64), "w": np.ones((4, 3), np.int64)}
    )
    made.graph.output[0].type.CopyFrom(helper.make_tensor_type_proto(TensorProto.INT64, [2, 3]))
    path = tmp_path / "integers.onnx"
    path.write_bytes(made.SerializeToString())
    for command in ("inspect", "prepare"):
        done = CliRunner().invoke(app, [command, str(path), "--batch-size", "2"])
        assert done.exit_code == 2
        assert "no trainable parameter" in done.output


def test_prepare_says_which_weights_the_loss_does_not_see(tmp_path):
    made = model(node("Relu", ["h"], ["y"]), node("MatMul", ["x", "v"], ["aside"]), v=values(4, 2))
    made.graph.output[0].type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, [2, 3]))
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    command = ["prepare", str(tmp_path / "m.onnx"), "--batch-size", "2", "-o", str(tmp_path / "a")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "12 parameters in 1 tensors" in done.output
    assert "does not depend on them: v" in done.output


def test_a_gradient_that_is_no_number_fails_the_check():
    """max() would pass over a NaN that does not come first."""
    assert not Check(loss=1.0, torch_loss=1.0, errors={"a": 1e-7, "b": float("nan")}).worst <= 1e-4


def test_a_graph_that_onnxruntime_refuses_never_reaches_a_device():
    """A bug of ours in a rule, or a runtime without a kernel."""
    artifact = build_training_graph(model(node("Relu", ["h"], ["y"])), batch_size=2, scaling=RAW)
    rehearse(artifact)
    graph = onnx.load_from_string(artifact.training)
    graph.graph.node[-1].op_type = "Unheard"
    broken = msgspec.structs.replace(artifact, training=graph.SerializeToString())
    with pytest.raises(AutodiffError, match=r"does not run the training graph.*report it"):
        rehearse(broken)
