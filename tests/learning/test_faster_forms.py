"""Rewrites made for speed change neither values nor gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from learning_gradcheck import check_numeric, error, gradient_model, gradients, model_of, run
from onnx import helper, numpy_helper

from learning.artifact import TrainingArtifact
from learning.autodiff import build_training_graph
from learning.autodiff.gelu import merge_gelu
from learning.autodiff.layout import batch_last
from learning.autodiff.observe import observe
from learning.models import build_model

node = helper.make_node


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_same(rewrite, nodes, arrays, wanted, opset=20, tolerance=2e-5):
    """The rewritten model gives the same outputs and the same gradients; returns its nodes."""
    model = model_of(nodes, arrays, opset=opset)
    made = rewrite(observe(model, next(iter(arrays.values())).shape[0]))
    assert made is not None, "the rewrite did not see its pattern"
    feeds = {next(iter(arrays)): next(iter(arrays.values()))}
    (want,), (got,) = run(model, feeds), run(made, feeds)
    assert error(got, want) < tolerance
    dy = values(*want.shape, seed=9)
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    rewritten = gradients(list(made.graph.node), {**feeds, **constants}, wanted, {"y": dy}, opset)
    for name, a, b in zip(wanted, rewritten, gradients(nodes, arrays, wanted, {"y": dy}, opset), strict=True):
        assert error(a, b) < tolerance, name
    return [n.op_type for n in made.graph.node]


@st.composite
def depthwise(draw):
    rank = draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 4)) for _ in range(rank)]
    stride = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilation = [draw(st.integers(1, 2)) for _ in range(rank)]
    pads = [draw(st.integers(0, 2)) for _ in range(2 * rank)]
    size = [draw(st.integers(4, 11)) for _ in range(rank)]
    for axis in range(rank):
        assume(size[axis] + pads[axis] + pads[axis + rank] >= dilation[axis] * (kernel[axis] - 1) + 1)
    return (
        kernel,
        size,
        {"group": 3, "strides": stride, "dilations": dilation, "pads": pads},
        draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None)
@given(case=depthwise())
def test_depthwise_with_the_batch_last(case):
    """Small images as a whole (up to 64 cells), larger ones row by row; with and without bias."""
    kernel, size, attributes, bias = case
    arrays = {"x": values(2, 3, *size), "w": values(3, 1, *kernel, seed=1)}
    if bias:
        arrays["b"] = values(3, seed=2)
    operators = assert_same(
        batch_last, [node("Conv", list(arrays), ["y"], **attributes)], arrays, list(arrays)
    )
    assert "Conv" not in operators


def test_a_depthwise_separable_chain_stays_in_its_layout():
    arrays = {
        "x": values(2, 4, 9, 9),
        "d": values(4, 1, 3, 3, seed=1),
        "db": values(4, seed=2),
        "p": values(6, 4, 1, 1, seed=3),
        "pb": values(6, seed=4),
        "e": values(6, 1, 3, 3, seed=5),
    }
    nodes = [
        node("Conv", ["x", "d", "db"], ["c1"], group=4, pads=[1, 1, 1, 1]),
        node("HardSwish", ["c1"], ["r1"]),
        node("Conv", ["r1", "p", "pb"], ["c2"]),
        node("Relu", ["c2"], ["r2"]),
        node("Conv", ["r2", "e"], ["c3"], group=6, pads=[1, 1, 1, 1]),
        node("Add", ["c3", "r2"], ["s"]),
        node("GlobalAveragePool", ["s"], ["y"]),
    ]
    operators = assert_same(batch_last, nodes, arrays, list(arrays))
    assert "Conv" not in operators
    assert "GlobalAveragePool" not in operators


@pytest.mark.parametrize(
    ("shape", "kernel", "attributes"),
    [
        ((2, 3, 8, 40), (3, 1, 3, 3), {"group": 3}),  # rows too long for a product
        ((2, 3, 8, 8), (6, 1, 3, 3), {"group": 3}),  # two kernels per channel
        ((2, 4, 8, 8), (4, 2, 3, 3), {"group": 2}),
        ((2, 3, 8, 8), (4, 3, 3, 3), {}),
        ((2, 3, 8, 8), (3, 1, 3, 3), {"group": 3, "auto_pad": "SAME_UPPER"}),
    ],
)
def test_other_convolutions_are_left_alone(shape, kernel, attributes):
    model = model_of(
        [node("Conv", ["x", "w"], ["y"], **attributes)], {"x": values(*shape), "w": values(*kernel)}
    )
    assert batch_last(observe(model, 2)) is None


def gelu_nodes(form):
    """The orders exporters write the factors in."""
    erf = [node("Div", ["x", "root"], ["s"]), node("Erf", ["s"], ["e"]), node("Add", ["e", "one"], ["p"])]
    if form == "half first":
        return [*erf, node("Mul", ["x", "half"], ["h"]), node("Mul", ["h", "p"], ["y"])]
    if form == "half last":
        return [*erf, node("Mul", ["x", "p"], ["h"]), node("Mul", ["h", "half"], ["y"])]
    return [*erf, node("Mul", ["p", "half"], ["h"]), node("Mul", ["x", "h"], ["y"])]


NUMBERS = {"root": math.sqrt(2), "one": 1.0, "half": 0.5}


@pytest.mark.parametrize("form", ["half first", "half last", "half inside"])
def test_gelu_in_every_order(form):
    arrays = {"x": values(3, 4), **{n: np.asarray(v, np.float32) for n, v in NUMBERS.items()}}
    operators = assert_same(merge_gelu, gelu_nodes(form), arrays, ["x"])
    assert "HardSigmoid" in operators


def test_gelu_as_an_operator_of_its_own():
    arrays = {"x": values(3, 4)}
    assert_same(merge_gelu, [node("Gelu", ["x"], ["y"])], arrays, ["x"])
    tanh = model_of([node("Gelu", ["x"], ["y"], approximate="tanh")], arrays)
    assert merge_gelu(observe(tanh, 3)) is None, "the tanh form is another function"


@pytest.mark.parametrize("changed", ["root", "one", "half"])
def test_what_only_looks_like_gelu_is_left_alone(changed):
    numbers = {**NUMBERS, changed: 0.7}
    arrays = {"x": values(3, 4), **{n: np.asarray(v, np.float32) for n, v in numbers.items()}}
    for form in ("half first", "half last", "half inside"):
        assert merge_gelu(observe(model_of(gelu_nodes(form), arrays), 3)) is None


def test_a_gelu_whose_inside_is_read_elsewhere_is_left_alone():
    arrays = {"x": values(3, 4), **{n: np.asarray(v, np.float32) for n, v in NUMBERS.items()}}
    nodes = [*gelu_nodes("half last")[:-1], node("Mul", ["h", "half"], ["g"]), node("Add", ["g", "p"], ["y"])]
    assert merge_gelu(observe(model_of(nodes, arrays), 3)) is None


def test_sums_of_gradients_that_are_negated_or_products():
    """Fan-out where one branch is subtracted and another multiplied: fused into one node each."""
    arrays = {"x": values(3, 4), "w": values(4, 4, seed=1)}
    nodes = [
        node("Gemm", ["x", "w"], ["a"]),
        node("Tanh", ["x"], ["t"]),
        node("Sub", ["a", "x"], ["b"]),
        node("Mul", ["b", "t"], ["c"]),
        node("Sub", ["c", "t"], ["y"]),
    ]
    check_numeric(nodes, arrays, ["x", "w"], tolerance=1e-4)


def attention(extra=()):
    arrays = {"q": values(2, 5, 3), "k": values(2, 3, 5, seed=1), "v": values(2, 5, 2, seed=2)}
    nodes = [node("MatMul", ["q", "k"], ["s"]), node("Softmax", ["s"], ["p"], axis=-1)]
    nodes.append(node("MatMul", ["p", "v"], ["o"]))
    return [*nodes, *(extra or [node("Identity", ["o"], ["y"])])], arrays


def operators_of_gradient(nodes, arrays):
    return [n.op_type for n in gradient_model(model_of(nodes, arrays), list(arrays), ["y"]).graph.node]


def test_the_softmax_of_attention_sums_over_a_head_not_over_the_text():
    nodes, arrays = attention()
    check_numeric(nodes, arrays, list(arrays), tolerance=1e-4)
    assert operators_of_gradient(nodes, arrays).count("Mul") == 2


def test_a_softmax_that_is_read_twice_takes_the_general_form():
    nodes, arrays = attention([node("ReduceSum", ["p"], ["t"]), node("Add", ["o", "t"], ["y"])])
    check_numeric(nodes, arrays, list(arrays), tolerance=1e-4)
    wide, arrays = attention()
    arrays["v"] = values(2, 5, 7)
    check_numeric(wide, arrays, list(arrays), tolerance=1e-4)


def test_graphs_without_im2col_run_in_the_order_they_are_written():
    for name, written in (("transformer", True), ("gru", True), ("cnn", False)):
        loss = "next_token" if name == "transformer" else "softmax_cross_entropy"
        artifact = build_training_graph(build_model(name), batch_size=2, loss=loss)
        assert TrainingArtifact.from_bytes(artifact.to_bytes()).written_order is written
