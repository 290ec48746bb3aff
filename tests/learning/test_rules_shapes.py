"""Gradient rules of operators that move elements: all are linear, so the adjoint identity is exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_gradcheck import check_adjoint, check_numeric, gradients
from onnx import helper

node = helper.make_node


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ints(*numbers):
    return np.array(numbers, np.int64)


@pytest.mark.parametrize(
    ("op", "attributes", "extra"),
    [
        ("Reshape", {}, ints(4, 6)),
        ("Reshape", {}, ints(0, -1)),
        ("Flatten", {"axis": 1}, None),
        ("Flatten", {"axis": 2}, None),
        ("Transpose", {}, None),
        ("Transpose", {"perm": [1, 2, 0]}, None),
        ("Unsqueeze", {}, ints(0, 2)),
        ("Expand", {}, ints(5, 2, 3, 4)),
        ("Tile", {}, ints(2, 1, 3)),
    ],
)
def test_views_and_copies(op, attributes, extra):
    arrays = {"x": values(2, 3, 4)}
    if extra is not None:
        arrays["s"] = extra
    check_adjoint([node(op, list(arrays), ["y"], **attributes)], arrays, ["x"])


def test_squeeze():
    check_adjoint([node("Squeeze", ["x", "a"], ["y"])], {"x": values(2, 1, 3), "a": ints(1)}, ["x"])


def test_expand_of_ones():
    check_adjoint([node("Expand", ["x", "s"], ["y"])], {"x": values(2, 1, 3), "s": ints(4, 2, 5, 3)}, ["x"])


def test_concat_gives_each_input_its_part():
    arrays = {"a": values(2, 1, 3), "b": values(2, 4, 3, seed=1)}
    check_numeric([node("Concat", ["a", "b"], ["y"], axis=1)], arrays, ["a", "b"])


def test_split_with_one_output_unused():
    arrays = {"x": values(2, 5), "s": ints(2, 1, 2)}
    nodes = [node("Split", ["x", "s"], ["y", "unused", "z"], axis=1)]
    check_numeric(nodes, arrays, ["x"], outputs=("y", "z"))


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 7),
    start=st.integers(-8, 8),
    end=st.integers(-9, 9),
    step=st.sampled_from([-3, -2, -1, 1, 2, 3]),
    axis=st.sampled_from([0, 1, -1]),
)
def test_slice_of_any_bounds_and_steps(size, start, end, step, axis):
    shape = [2, 3, 2]
    shape[axis] = size
    bounds = slice(start, end, step).indices(size)
    if not len(range(*bounds)):
        return  # an empty slice has no gradient; refused with a message
    # numpy's notion of a negative end for a negative step differs from ONNX's: give ONNX unambiguous bounds.
    last = bounds[1] if bounds[1] >= 0 else -(size + 1)
    arrays = {"x": values(*shape), "s": ints(bounds[0]), "e": ints(last), "a": ints(axis), "t": ints(step)}
    check_adjoint([node("Slice", ["x", "s", "e", "a", "t"], ["y"])], arrays, ["x"])


def test_slice_of_two_axes_at_once():
    arrays = {"x": values(2, 6, 7), "s": ints(1, 6), "e": ints(6, 0), "a": ints(1, 2), "t": ints(2, -3)}
    check_adjoint([node("Slice", ["x", "s", "e", "a", "t"], ["y"])], arrays, ["x"])


@settings(max_examples=20, deadline=None)
@given(pads=st.lists(st.integers(-1, 2), min_size=4, max_size=4))
def test_pad_and_crop(pads):
    check_adjoint([node("Pad", ["x", "p"], ["y"])], {"x": values(3, 4), "p": ints(*pads)}, ["x"])


def test_pad_of_named_axes():
    arrays = {"x": values(2, 3, 4), "p": ints(1, 2), "v": np.float32(0), "a": ints(-1)}
    arrays["v"] = np.asarray(arrays["v"])
    check_adjoint([node("Pad", ["x", "p", "v", "a"], ["y"])], arrays, ["x"])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_adds_up_repeated_and_negative_indices(axis):
    arrays = {"x": values(4, 3, 5), "i": np.array([[0, 2], [-1, 2]], np.int64)}
    check_adjoint([node("Gather", ["x", "i"], ["y"], axis=axis)], arrays, ["x"])


def test_gather_of_a_single_index():
    check_adjoint([node("Gather", ["x", "i"], ["y"], axis=1)], {"x": values(2, 3), "i": np.asarray(1)}, ["x"])


@pytest.mark.parametrize(("op", "shape"), [("DepthToSpace", (2, 8, 2, 3)), ("SpaceToDepth", (2, 2, 4, 6))])
def test_depth_and_space(op, shape):
    check_adjoint([node(op, ["x"], ["y"], blocksize=2)], {"x": values(*shape)}, ["x"])


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("diagonal", [None, -1, 2])
def test_trilu(upper, diagonal):
    arrays = {"x": values(2, 3, 4)}
    if diagonal is not None:
        arrays["k"] = np.asarray(diagonal, np.int64)
    check_adjoint([node("Trilu", list(arrays), ["y"], upper=upper)], arrays, ["x"])


@pytest.mark.parametrize("attributes", [{"axis": 1}, {"axis": -1, "largest": 0}, {"axis": 0}])
def test_the_largest_k_take_the_gradient(attributes):
    arrays = {"x": np.random.default_rng(3).permutation(24).reshape(4, 6).astype(np.float32), "k": ints(2)}
    check_numeric([node("TopK", ["x", "k"], ["y", "i"], **attributes)], arrays, ["x"])


def test_indices_of_the_largest_have_no_gradient():
    """What is computed from them is constant to the left: the other path counts alone."""
    x, dy = values(3, 5), values(3, 2, seed=1)
    nodes = [
        node("TopK", ["x", "k"], ["v", "i"], axis=1),
        node("Cast", ["i"], ["c"], to=1),
        node("Mul", ["v", "c"], ["y"]),
    ]
    (got,) = gradients(nodes, {"x": x, "k": ints(2)}, ["x"], {"y": dy})
    largest, want = np.argsort(-x, axis=1)[:, :2], np.zeros_like(x)
    np.put_along_axis(want, largest, dy * largest, axis=1)
    np.testing.assert_array_equal(got, want)
