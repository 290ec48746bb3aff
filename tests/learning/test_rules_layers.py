"""Normalisations, recurrent layers, and the traps of training mode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from learning_gradcheck import check_numeric, error, gradients, model_of, run
from onnx import helper, numpy_helper

from learning.artifact import InputSpec, unflatten
from learning.autodiff import AutodiffError, UnsupportedOperator, build_training_graph, initial_parameters
from learning.autodiff.observe import observe
from learning.autodiff.registry import RULES
from learning.autodiff.rewrite import EXPANSIONS, rewrite
from learning.session import StepSession
from learning.shard import Shard
from learning.trainer import Trainer, TrainingSpec, batches

node = helper.make_node
RAW = InputSpec(dtype="float32", scale=1.0)


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("axis", [-1, 1])
def test_layer_normalization(axis):
    x = values(2, 3, 4)
    tail = x.shape[axis:] if axis > 0 else x.shape[-1:]
    arrays = {"x": x, "s": values(*tail, seed=1), "b": values(*tail, seed=2)}
    check_numeric(
        [node("LayerNormalization", ["x", "s", "b"], ["y"], axis=axis)],
        arrays,
        ["x", "s", "b"],
        tolerance=1e-4,
    )


def test_instance_normalization():
    arrays = {"x": values(2, 3, 4), "s": values(3, seed=1), "b": values(3, seed=2)}
    check_numeric(
        [node("InstanceNormalization", ["x", "s", "b"], ["y"])], arrays, ["x", "s", "b"], tolerance=1e-4
    )


def test_batch_normalization_with_fixed_statistics():
    arrays = {"x": values(2, 3, 4), "s": values(3, seed=1), "b": values(3, seed=2), "m": values(3, seed=3)}
    arrays["v"] = np.abs(values(3, seed=4)) + 0.5
    batch = node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])
    check_numeric([batch], arrays, ["x", "s", "b"], tolerance=1e-4)


def recurrent(kind, direction="forward", linear=1, steps=4, batch=2, width=3, hidden=2, bias=True):
    """Nodes of one recurrent layer with all its outputs, unrolled, and its arrays."""
    gates, ways = {"GRU": 3, "LSTM": 4}[kind], 2 if direction == "bidirectional" else 1
    arrays = {
        "x": values(steps, batch, width),
        "w": values(ways, gates * hidden, width, seed=1),
        "r": values(ways, gates * hidden, hidden, seed=2),
        "b": values(ways, 2 * gates * hidden, seed=3),
        "h": values(ways, batch, hidden, seed=4),
    }
    options = {"linear_before_reset": linear} if kind == "GRU" else {}
    inputs = ["x", "w", "r", "b" if bias else "", "", "h"]
    outputs = ["y", "last"] + (["cell"] if kind == "LSTM" else [])
    made = node(kind, inputs, outputs, name="layer", hidden_size=hidden, direction=direction, **options)
    return made, arrays, outputs


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("linear", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_unrolling_gives_the_operators_own_values(kind, direction, linear, bias):
    layer, arrays, outputs = recurrent(kind, direction, linear, bias=bias)
    model = model_of([layer], arrays, outputs)
    unrolled = rewrite(observe(model, arrays["x"].shape[0])).model
    del unrolled.graph.output[:]
    unrolled.graph.output.extend(helper.make_empty_tensor_value_info(o) for o in outputs)
    for got, want in zip(run(unrolled, {"x": arrays["x"]}), run(model, {"x": arrays["x"]}), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
@pytest.mark.parametrize("linear", [0, 1])
def test_gradients_of_an_unrolled_layer(kind, linear):
    layer, arrays, _ = recurrent(kind, linear=linear, steps=3)
    model = model_of([layer], arrays, ("y",))
    unrolled = rewrite(observe(model, 3)).model
    extra = {t.name: numpy_helper.to_array(t) for t in unrolled.graph.initializer}
    check_numeric(list(unrolled.graph.node), {**arrays, **extra}, ["x", "w", "r", "b", "h"], tolerance=1e-4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"clip": 1.0}, "clip"), ({"activations": ["Relu", "Tanh"]}, "default activations")],
)
def test_recurrent_layers_that_are_not_covered_say_so(change, reason):
    layer, arrays, _ = recurrent("GRU")
    layer.attribute.extend(helper.make_attribute(key, value) for key, value in change.items())
    with pytest.raises(AutodiffError, match=f"GRU.*layer.*{reason}"):
        rewrite(observe(model_of([layer], arrays, ("y",)), 4))


# --- batch normalisation and dropout in training mode -------------------------------------------------------


def batch_norm_model():
    """Conv → BatchNormalization → global average, four classes."""
    arrays = {
        "x": values(8, 2, 5),
        "conv.weight": values(4, 2, 3, seed=1),
        "bn.scale": 1 + 0.1 * values(4, seed=2),
        "bn.shift": 0.1 * values(4, seed=3),
        "bn.mean": np.zeros(4, np.float32),
        "bn.var": np.ones(4, np.float32),
    }
    nodes = [
        node("Conv", ["x", "conv.weight"], ["c"]),
        node("BatchNormalization", ["c", "bn.scale", "bn.shift", "bn.mean", "bn.var"], ["n"], momentum=0.9),
        node("Relu", ["n"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["y"]),
    ]
    return model_of(nodes, arrays), arrays


def test_frozen_batch_norm_has_no_state_and_keeps_its_statistics():
    model, _ = batch_norm_model()
    artifact = build_training_graph(model, batch_size=8, scaling=RAW)
    assert artifact.state == []
    assert [p.name for p in artifact.parameters] == ["conv.weight", "bn.scale", "bn.shift"]


def test_running_statistics_are_state_with_onnx_momentum_and_biased_variance():
    model, arrays = batch_norm_model()
    artifact = build_training_graph(model, batch_size=8, scaling=RAW, batch_norm="train")
    assert [p.name for p in artifact.parameters if p.kind == "state"] == ["bn.mean", "bn.var"]
    shard = Shard(arrays["x"], np.arange(8) % 4)
    start = initial_parameters(model, artifact)
    spec = TrainingSpec(batch_size=8, lr=0.0, momentum=0.9, weight_decay=0.5, prox_mu=1.0, clip_norm=1e-3)
    result = Trainer(artifact, shard).train(start, spec, seed=1)
    trained = unflatten(artifact, start + result.delta)
    (c,) = run(
        model_of([node("Conv", ["x", "w"], ["y"])], {"x": arrays["x"], "w": arrays["conv.weight"]}),
        {"x": arrays["x"]},
    )
    np.testing.assert_allclose(trained["bn.mean"], 0.1 * c.mean((0, 2)), atol=1e-6)
    np.testing.assert_allclose(trained["bn.var"], 0.9 + 0.1 * c.var((0, 2)), atol=1e-5)  # ONNX: biased


def test_gradients_through_batch_statistics():
    """Numerically, in float32 with large steps: no second implementation runs training mode in float64."""
    model, arrays = batch_norm_model()
    artifact = build_training_graph(model, batch_size=8, scaling=RAW, batch_norm="train")
    flat = initial_parameters(model, artifact)
    grad, labels = np.empty_like(flat), np.arange(8) % 4
    step = StepSession(artifact, flat, grad)
    step.x[...], step.labels[...] = arrays["x"], labels
    step.run()
    analytic = {name: v.copy() for name, v in unflatten(artifact, grad).items()}
    views = unflatten(artifact, flat)
    for name in ("conv.weight", "bn.scale", "bn.shift"):
        numeric = np.zeros(views[name].shape)
        for index in np.ndindex(*views[name].shape):
            kept = views[name][index]
            losses = []
            for sign in (1, -1):
                views[name][index] = kept + sign * 1e-2
                losses.append(step.run() / 8)
            views[name][index] = kept
            numeric[index] = (losses[0] - losses[1]) / 2e-2
        assert error(analytic[name], numeric) < 2e-2, name


def test_with_state_the_last_batch_is_filled_with_samples_that_count():
    drawn = list(batches(10, 4, steps=3, seed=2, last="fill"))
    assert [real for _, real in drawn] == [4, 4, 4]
    last = drawn[2][0]
    assert len(set(last)) == 4
    assert set(last[2:]) <= set(np.concatenate([drawn[0][0], drawn[1][0]]))


def dropout_model():
    arrays = {"x": np.ones((4, 64), np.float32), "w": values(64, 3), "ratio": np.asarray(0.25, np.float32)}
    return model_of([node("Dropout", ["x", "ratio"], ["d"]), node("MatMul", ["d", "w"], ["y"])], arrays)


def test_dropout_masks_follow_from_seed_and_step():
    model = dropout_model()
    artifact = build_training_graph(model, batch_size=4, scaling=RAW, dropout=True)
    assert [n.shape for n in artifact.noise] == [(4, 64)]
    shard = Shard(np.ones((8, 64), np.float32), np.arange(8) % 3)
    start, spec = initial_parameters(model, artifact), TrainingSpec(batch_size=4, lr=0.1)
    trainer = Trainer(artifact, shard)
    first, again, other = (trainer.train(start, spec, seed=s).delta for s in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_dropout_scales_what_it_keeps():
    model = dropout_model()
    artifact = build_training_graph(model, batch_size=4, scaling=RAW, dropout=True)
    flat = initial_parameters(model, artifact)
    grad = np.empty_like(flat)
    step = StepSession(artifact, flat, grad)
    step.x[...] = 1.0
    (noise,) = step.noise.values()
    noise[...] = 0.9
    step.run()
    kept = grad.copy()
    noise[...] = 0.1
    step.run()
    assert np.abs(kept).max() > 0
    assert np.abs(grad).max() == 0
    plain = build_training_graph(model, batch_size=4, scaling=RAW)
    whole = np.empty_like(flat)
    step = StepSession(plain, flat / 0.75, whole)  # the same logits as with everything kept and scaled
    step.x[...] = 1.0
    step.run()
    np.testing.assert_allclose(kept, whole / 0.75, rtol=1e-4, atol=1e-6)


# --- what is a weight, and what cannot be trained -----------------------------------------------------------


def test_constants_are_not_trained_and_tied_weights_sum():
    arrays = {
        "x": values(2, 3),
        "w": values(3, 3, seed=1),
        "eps": np.asarray(1e-5, np.float32),
        "mask": np.triu(np.full((2, 3), -1e9, np.float32)),
        "scale": np.full((1,), 1.4142, np.float32),
        "shape": np.array([2, 3]),
    }
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Add", ["a", "eps"], ["b"]),
        node("Mul", ["b", "scale"], ["c"]),
        node("MatMul", ["c", "w"], ["d"]),
        node("Add", ["d", "mask"], ["e"]),
        node("Reshape", ["e", "shape"], ["y"]),
    ]
    artifact = build_training_graph(model_of(nodes, arrays), batch_size=2, scaling=RAW)
    assert [p.name for p in artifact.parameters] == ["w"]
    del arrays["mask"], arrays["shape"], arrays["eps"], arrays["scale"]
    check_numeric([node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["a", "w"], ["y"])], arrays, ["w"])
    gemms = [node("Gemm", ["x", "w"], ["a"], transB=1), node("Gemm", ["a", "w"], ["y"], transB=1)]
    check_numeric(gemms, arrays, ["w"])


def test_trainable_subsets_by_pattern():
    from learning.models import build_model

    model = build_model("cnn")
    artifact = build_training_graph(model, batch_size=2, trainable=["fc*"])
    assert [p.name for p in artifact.parameters] == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert len(artifact.training) > 200_000, "frozen layers travel inside the artifact"
    with pytest.raises(AutodiffError, match=r"'nothing\.\*' matches no parameter. Parameters: conv1.weight"):
        build_training_graph(model, batch_size=2, trainable=["nothing.*"])


def test_an_unsupported_operator_is_named_with_its_node_and_the_list():
    arrays = {"x": values(2, 3), "w": values(3, seed=1)}
    nodes = [node("Mul", ["x", "w"], ["a"]), node("CumSum", ["a", "axis"], ["y"], name="running")]
    arrays["axis"] = np.asarray(1)
    with pytest.raises(
        UnsupportedOperator, match=r"CumSum \(node 'running'\).*Operators with a rule: Abs, Add"
    ):
        build_training_graph(model_of(nodes, arrays), batch_size=2, scaling=RAW)


def test_models_that_cannot_be_trained_say_why():
    arrays = {"x": values(2, 3), "w": values(3, 4, seed=1)}
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    good = model_of(nodes, arrays)
    with pytest.raises(AutodiffError, match="unknown loss 'l1'"):
        build_training_graph(good, batch_size=2, loss="l1")
    broken = dict(arrays, w=np.full((3, 4), np.nan, np.float32))
    with pytest.raises(AutodiffError, match="'w' holds NaN"):
        build_training_graph(model_of(nodes, broken), batch_size=2)
    with pytest.raises(AutodiffError, match="fixed batch of 2, not 5"):
        build_training_graph(good, batch_size=5)
    with pytest.raises(AutodiffError, match="no trainable parameter"):
        build_training_graph(model_of([node("Relu", ["x"], ["y"])], {"x": arrays["x"]}), batch_size=2)
    dynamic = model_of(nodes, arrays)
    dynamic.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "width"
    with pytest.raises(AutodiffError, match="'width' of input 'x' is dynamic: bind it"):
        build_training_graph(dynamic, batch_size=2)
    build_training_graph(dynamic, batch_size=2, dims={"width": 3})
    loop = model_of([node("If", ["c"], ["y"], name="choose")], {"c": np.array(True)})
    with pytest.raises(AutodiffError, match="'choose' is control flow"):
        build_training_graph(loop, batch_size=2)
    with pytest.raises(AutodiffError, match="opset 11 is too old"):
        build_training_graph(model_of(nodes, arrays, opset=11), batch_size=2)


def test_dynamic_batch_can_be_evaluated_at_another_size():
    from learning.evaluator import Evaluator
    from learning.models import build_model

    model = build_model("mobile-cnn", 1)
    artifact = build_training_graph(model, batch_size=4)
    shard = Shard(np.zeros((7, 28, 28), np.uint8), np.arange(7))
    assert Evaluator(artifact, shard, batch=5).evaluate(initial_parameters(model, artifact)).samples == 7


def test_older_opsets_are_lifted():
    arrays = {"x": values(2, 3), "w": values(3, 4, seed=1)}
    old = model_of([node("MatMul", ["x", "w"], ["y"])], arrays, opset=13)
    assert build_training_graph(old, batch_size=2, scaling=RAW).size == 12


def test_gradients_of_a_value_nobody_needs_are_not_made():
    arrays = {"x": values(2, 3), "w": values(3, 4, seed=1)}
    (dw,) = gradients([node("MatMul", ["x", "w"], ["y"])], arrays, ["w"], {"y": np.ones((2, 4), np.float32)})
    np.testing.assert_allclose(dw, np.repeat(arrays["x"].sum(0)[:, None], 4, axis=1), rtol=1e-6)


@pytest.mark.parametrize("axis", [-1, 1])
def test_l2_normalization(axis):
    check_numeric(
        [node("LpNormalization", ["x"], ["y"], axis=axis)], {"x": values(2, 3, 4)}, ["x"], tolerance=1e-4
    )


def test_other_norms_are_refused_rather_than_taken_for_the_second():
    with pytest.raises(AutodiffError, match="p = 1: only p = 2"):
        gradients(
            [node("LpNormalization", ["x"], ["y"], p=1)], {"x": values(2, 3)}, ["x"], {"y": values(2, 3)}
        )


def test_every_rule_has_a_test():
    """By name, in the files that hold gradients against an independent derivative."""
    text = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert [op for op in {*RULES, *EXPANSIONS} if f'"{op}"' not in text] == []
