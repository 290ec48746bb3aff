"""Metrics of the evaluator against their definitions, for every loss."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from coordinator.evaluation import CLASSES_MAX, evaluated
from learning.artifact import InputSpec
from learning.autodiff import build_training_graph, initial_parameters
from learning.evaluator import LOSSES, Evaluation, Evaluator, count_pairs, macro_f1
from learning.models import build_model
from learning.shard import Shard


def linear(inputs: int, outputs: int) -> onnx.ModelProto:
    rng = np.random.default_rng(4)
    weight = rng.standard_normal((inputs, outputs)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", inputs])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", outputs])],
        initializer=[numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def evaluate(loss: str, y: np.ndarray, outputs: int) -> tuple[Evaluation, np.ndarray]:
    """The evaluation, and the outputs it is about."""
    model = linear(5, outputs)
    x = np.random.default_rng(1).standard_normal((len(y), 5)).astype(np.float32)
    artifact = build_training_graph(
        model, loss=loss, batch_size=4, scaling=InputSpec(dtype="float32", scale=1.0)
    )
    flat = initial_parameters(model, artifact)
    result = Evaluator(artifact, Shard(x, y), batch=7).evaluate(flat)
    return result, x @ numpy_helper.to_array(model.graph.initializer[0])


def test_classes_are_counted_and_scored() -> None:
    y = np.random.default_rng(2).integers(0, 3, 50)
    result, z = evaluate("softmax_cross_entropy", y, 3)
    predicted = z.argmax(1)
    assert result.accuracy == pytest.approx(np.mean(predicted == y))
    assert result.confusion[1, 2] == np.sum((y == 1) & (predicted == 2))
    assert result.per_class_accuracy[0] == pytest.approx(np.mean(predicted[y == 0] == 0))
    scores = []
    for c in range(3):
        hits = np.sum((predicted == c) & (y == c))
        scores.append(2 * hits / (np.sum(predicted == c) + np.sum(y == c)))
    assert result.f1 == pytest.approx(np.mean(scores))


def test_binary_targets_have_two_classes() -> None:
    y = np.random.default_rng(3).integers(0, 2, (40, 2)).astype(np.float32)
    result, z = evaluate("binary_cross_entropy", y, 2)
    assert result.accuracy == pytest.approx(np.mean((z > 0) == (y > 0.5)))
    assert result.confusion.shape == (2, 2)
    assert result.confusion.sum() == 80


def test_a_regression_has_an_error_and_nothing_else() -> None:
    y = np.random.default_rng(3).standard_normal((40, 2)).astype(np.float32)
    result, z = evaluate("mean_squared_error", y, 2)
    assert result.mse == pytest.approx(float(np.mean((z - y) ** 2)), rel=1e-5)
    assert (result.accuracy, result.f1, result.confusion.size) == (None, None, 0)
    event = evaluated(3, result)
    assert (event.accuracy, event.metrics) == (None, {"mse": result.mse})


def test_the_perplexity_of_tokens() -> None:
    model = build_model("transformer", 1)
    artifact = build_training_graph(model, loss="next_token", batch_size=2)
    x = np.random.default_rng(5).integers(0, 96, (6, 64))
    result = Evaluator(artifact, Shard(x, x)).evaluate(initial_parameters(model, artifact))
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    event = evaluated(0, result)
    assert (
        event.confusion == () or len(event.confusion) <= CLASSES_MAX
    )  # a vocabulary's matrix is not recorded
    assert event.confusion == event.per_class == ()


def test_a_class_without_samples_is_a_gap() -> None:
    confusion = np.zeros((3, 3), np.int64)
    count_pairs(confusion, np.array([0, 0, 1]), np.array([0, 1, 1]))
    assert confusion.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert macro_f1(confusion) == pytest.approx((2 / 3 + 2 / 3) / 2)
    result = Evaluation(samples=3, loss=1.0, per_class_accuracy=[0.5, 1.0, math.nan], confusion=confusion)
    assert evaluated(1, result).per_class == (0.5, 1.0, None)


def test_every_loss_head_can_be_evaluated() -> None:
    from learning.autodiff.losses import LOSSES as HEADS

    assert set(LOSSES) == set(HEADS)
