"""Gradient rules of element-wise operators, reductions and matrix products, against float64 finite
differences.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_gradcheck import check_numeric, gradients
from onnx import helper

from learning.autodiff import AutodiffError

node = helper.make_node


def away(shape, seed=0, low=0.2, high=2.0, signed=True):
    """Random values with a distance from zero, where kinks are."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(low, high, shape)
    return values * rng.choice([-1.0, 1.0], shape) if signed else values


UNARY = [
    ("Relu", {}, True),
    ("LeakyRelu", {"alpha": 0.1}, True),
    ("Elu", {"alpha": 1.3}, True),
    ("Sigmoid", {}, True),
    ("Tanh", {}, True),
    ("Softplus", {}, True),
    ("Gelu", {}, True),
    ("Gelu", {"approximate": "tanh"}, True),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, True),
    ("HardSwish", {}, True),
    ("Exp", {}, True),
    ("Log", {}, False),
    ("Sqrt", {}, False),
    ("Reciprocal", {}, True),
    ("Erf", {}, True),
    ("Abs", {}, True),
    ("Neg", {}, True),
    ("Sin", {}, True),
    ("Cos", {}, True),
    ("Identity", {}, True),
    ("Dropout", {}, True),
    ("Softmax", {"axis": 1}, True),
    ("Softmax", {"axis": -1}, True),
    ("LogSoftmax", {"axis": 2}, True),
]


@pytest.mark.parametrize(("op", "attributes", "signed"), UNARY)
def test_unary(op, attributes, signed):
    x = away((2, 3, 4), signed=signed)
    # The reference evaluator computes these in float32: larger steps drown that noise.
    coarse = {"step": 1e-2, "tolerance": 1e-3} if op in ("Erf", "Gelu", "HardSwish") else {}
    check_numeric([node(op, ["x"], ["y"], **attributes)], {"x": x}, ["x"], **coarse)


def test_hard_swish_beyond_its_bends():
    check_numeric(
        [node("HardSwish", ["x"], ["y"])],
        {"x": np.array([[-5.0, -3.5, -1.0, 2.0, 3.5, 9.0]])},
        ["x"],
        step=1e-3,
    )


def test_prelu_moves_its_slope():
    arrays = {"x": away((2, 3, 4)), "slope": away((3, 1))}
    check_numeric([node("PRelu", ["x", "slope"], ["y"])], arrays, ["x", "slope"])


def test_clip_with_both_and_with_one_bound():
    arrays = {"x": away((3, 5)), "low": np.float32(-0.7), "high": np.float32(0.9)}
    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    check_numeric([node("Clip", ["x", "low", "high"], ["y"])], arrays, ["x"])
    del arrays["high"]
    check_numeric([node("Clip", ["x", "low"], ["y"])], arrays, ["x"])


def test_cast_between_float_types_passes_the_gradient():
    x = np.array([[1.0, -2.0]], np.float32)
    cast = [node("Cast", ["x"], ["h"], to=11), node("Cast", ["h"], ["y"], to=1)]
    (dx,) = gradients(cast, {"x": x}, ["x"], {"y": np.array([[3.0, 4.0]], np.float32)})
    np.testing.assert_array_equal(dx, [[3.0, 4.0]])


@st.composite
def broadcast_pair(draw):
    """Two shapes that broadcast."""
    full = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    other = [size if draw(st.booleans()) else 1 for size in full][draw(st.integers(0, len(full) - 1)) :]
    return (tuple(full), tuple(other)) if draw(st.booleans()) else (tuple(other), tuple(full))


@settings(max_examples=25, deadline=None)
@given(shapes=broadcast_pair(), op=st.sampled_from(["Add", "Sub", "Mul", "Div", "Min", "Max"]))
def test_binary_with_broadcasting(shapes, op):
    a, b = away(shapes[0], 1), away(shapes[1], 2) + 0.01
    check_numeric([node(op, ["a", "b"], ["y"])], {"a": a, "b": b}, ["a", "b"])


@pytest.mark.parametrize("op", ["Sum", "Max", "Min"])
def test_many_operands(op):
    arrays = {name: away((2, 3), seed) for seed, name in enumerate("abc")}
    check_numeric([node(op, ["a", "b", "c"], ["y"])], arrays, ["a", "b", "c"])


def test_a_tied_maximum_goes_to_one_operand_only():
    tied = np.ones((1, 3), np.float32)
    da, db = gradients([node("Max", ["a", "b"], ["y"])], {"a": tied, "b": tied}, ["a", "b"], {"y": tied * 2})
    np.testing.assert_array_equal(da, tied * 2)
    np.testing.assert_array_equal(db, tied * 0)


@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5])
def test_power_with_constant_exponent(exponent):
    arrays = {"x": away((2, 3), signed=False), "e": np.asarray(exponent)}
    check_numeric([node("Pow", ["x", "e"], ["y"])], arrays, ["x"])


def test_power_with_learned_exponent():
    arrays = {"x": away((2, 3), signed=False), "e": away((3,), 4)}
    check_numeric([node("Pow", ["x", "e"], ["y"])], arrays, ["x", "e"])


def test_where_divides_the_gradient():
    arrays = {"a": away((2, 1, 3)), "c": np.array([[True], [False]]), "b": away((3,), 1)}
    check_numeric([node("Where", ["c", "a", "b"], ["y"])], arrays, ["a", "b"])


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2"])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [[1], [0, 2], [-1], []])
def test_reductions(op, keep, axes):
    arrays = {"x": away((2, 3, 4))}
    inputs = ["x"]
    if axes:
        arrays["axes"] = np.array(axes, np.int64)
        inputs.append("axes")
    check_numeric([node(op, inputs, ["y"], keepdims=keep)], arrays, ["x"])


def test_reductions_of_old_opsets_take_axes_as_attribute():
    check_numeric(
        [node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0)], {"x": away((2, 3))}, ["x"], opset=17
    )
    check_numeric([node("ReduceMax", ["x"], ["y"], axes=[0])], {"x": away((2, 3))}, ["x"], opset=17)


def test_tied_reduce_max_shares_like_amax():
    x = np.array([[1.0, 1.0, 0.0]], np.float32)
    (dx,) = gradients(
        [node("ReduceMax", ["x"], ["y"], keepdims=0)], {"x": x}, ["x"], {"y": np.asarray(4.0, np.float32)}
    )
    np.testing.assert_array_equal(dx, [[2.0, 2.0, 0.0]])


@pytest.mark.parametrize("ta", [0, 1])
@pytest.mark.parametrize("tb", [0, 1])
@pytest.mark.parametrize("bias", [(3,), (2, 3), (2, 1), ()])
def test_gemm(ta, tb, bias):
    arrays = {"a": away((4, 2) if ta else (2, 4)), "b": away((3, 4) if tb else (4, 3), 1), "c": away(bias, 2)}
    arrays["c"] = np.asarray(arrays["c"])
    gemm = node("Gemm", ["a", "b", "c"], ["y"], alpha=0.5, beta=2.0, transA=ta, transB=tb)
    check_numeric([gemm], arrays, ["a", "b", "c"])


MATMULS = [
    ((2, 3), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((5, 2, 3), (5, 3, 4)),
    ((2, 1, 2, 3), (5, 3, 4)),
    ((2, 3), (5, 3, 4)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((3,), (3,)),
    ((5, 2, 3), (3,)),
    ((3,), (5, 3, 4)),
]


@pytest.mark.parametrize(("left", "right"), MATMULS)
def test_matmul(left, right):
    arrays = {"a": away(left), "b": away(right, 1)}
    check_numeric([node("MatMul", ["a", "b"], ["y"])], arrays, ["a", "b"])


EINSUMS = [
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("bhqd,bhkd->bhqk", (2, 2, 3, 2), (2, 2, 4, 2)),
    ("bij,bjk", (2, 3, 2), (2, 2, 3)),
    ("i,j->ij", (3,), (2,)),
    ("ij,ij->i", (2, 3), (2, 3)),
    ("ijk,k->ij", (2, 3, 4), (4,)),
    ("...ij,...jk->...ik", (2, 3, 2), (2, 2, 3)),
    ("b...d,do->b...o", (2, 3, 2, 2), (2, 3)),
    ("bhqd,bhkd->bqk", (2, 2, 3, 2), (2, 2, 4, 2)),
    ("ij,kl->jl", (2, 3), (2, 2)),
]


@pytest.mark.parametrize(("equation", "left", "right"), EINSUMS)
def test_einsum(equation, left, right):
    arrays = {"a": away(left), "b": away(right, 1)}
    check_numeric([node("Einsum", ["a", "b"], ["y"], equation=equation)], arrays, ["a", "b"])


def test_einsum_of_three_operands():
    arrays = {"a": away((2, 3)), "b": away((3, 2), 1), "c": away((2, 4), 2)}
    check_numeric([node("Einsum", ["a", "b", "c"], ["y"], equation="ij,jk,kl->il")], arrays, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("equation", "left", "right", "reason"),
    [("ii,ij->ij", (3, 3), (3, 3), "an index twice"), ("ij,ij->ij", (1, 3), (2, 3), "broadcasts an axis")],
)
def test_einsum_forms_without_a_rule_are_named(equation, left, right, reason):
    arrays = {"a": away(left), "b": away(right, 1)}
    with pytest.raises(AutodiffError, match=f"Einsum.*mixed.*{reason}"):
        check_numeric([node("Einsum", ["a", "b"], ["y"], equation=equation, name="mixed")], arrays, ["b"])


def test_einsum_that_sums_an_index_away():
    check_numeric([node("Einsum", ["a"], ["y"], equation="ijk->ik")], {"a": away((2, 3, 2))}, ["a"])


def test_fan_out_sums_gradients():
    nodes = [node("Mul", ["x", "x"], ["s"]), node("Exp", ["x"], ["e"]), node("Add", ["s", "e"], ["t"])]
    check_numeric([*nodes, node("Mul", ["t", "x"], ["y"])], {"x": away((2, 3))}, ["x"])


def test_the_norm_of_zeros_has_no_gradient():
    """As in PyTorch; 0/0 would make every weight NaN with the first padded row."""
    x, dy = np.zeros((2, 3), np.float32), np.ones((2, 1), np.float32)
    x[1] = [3, 0, 4]
    (got,) = gradients([node("ReduceL2", ["x", "a"], ["y"])], {"x": x, "a": np.array([1])}, ["x"], {"y": dy})
    np.testing.assert_allclose(got, [[0, 0, 0], [0.6, 0, 0.8]], rtol=1e-6)
