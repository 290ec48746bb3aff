"""Gradient rules of convolutions and pools, by the adjoint identity over shape and attribute combinations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from learning_gradcheck import check_adjoint, check_numeric, error, gradients, model_of, run
from onnx import helper

from learning.autodiff import AutodiffError
from learning.autodiff.graph import Graph, Tensor
from learning.autodiff.rules import convolution

node = helper.make_node


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@st.composite
def convolutions(draw):
    rank = draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    per_group, outputs = draw(st.integers(1, 3)), groups * draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 4)) for _ in range(rank)]
    stride = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilation = [draw(st.integers(1, 2)) for _ in range(rank)]
    pads = [draw(st.integers(0, 2)) for _ in range(2 * rank)]
    size = [draw(st.integers(4, 9)) for _ in range(rank)]
    for axis in range(rank):
        assume(size[axis] + pads[axis] + pads[axis + rank] >= dilation[axis] * (kernel[axis] - 1) + 1)
    attributes = {"group": groups, "strides": stride, "dilations": dilation, "pads": pads}
    return per_group * groups, per_group, outputs, kernel, size, attributes


@settings(max_examples=80, deadline=None)
@given(case=convolutions())
def test_conv(case):
    channels, per_group, outputs, kernel, size, attributes = case
    arrays = {"x": values(2, channels, *size), "w": values(outputs, per_group, *kernel, seed=1)}
    check_adjoint([node("Conv", ["x", "w"], ["y"], **attributes)], arrays, ["x", "w"])


@settings(max_examples=50, deadline=None)
@given(case=convolutions(), extra=st.integers(0, 1))
def test_conv_transpose(case, extra):
    channels, per_group, outputs, kernel, size, attributes = case
    rest = [min(extra, s - 1) for s in attributes["strides"]]
    attributes = {**attributes, "output_padding": rest}
    # A transposed convolution's pads cut its output: keep it at least one wide.
    for axis in range(len(kernel)):
        cut = attributes["pads"][axis] + attributes["pads"][axis + len(kernel)]
        assume((size[axis] - 1) * attributes["strides"][axis] + kernel[axis] - cut >= 1)
        assume(max(attributes["pads"]) <= attributes["dilations"][axis] * (kernel[axis] - 1))
    arrays = {
        "x": values(2, outputs, *size),
        "w": values(outputs, per_group, *kernel, seed=1),
    }
    assert channels == per_group * attributes["group"]
    check_adjoint([node("ConvTranspose", ["x", "w"], ["y"], **attributes)], arrays, ["x", "w"])


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_auto_pad(auto_pad, stride):
    arrays = {"x": values(2, 2, 7, 8), "w": values(3, 2, 3, 4, seed=1)}
    conv = node("Conv", ["x", "w"], ["y"], auto_pad=auto_pad, strides=[stride, stride])
    check_adjoint([conv], arrays, ["x", "w"])


def test_bias_gradient_is_the_sum_over_samples_and_places():
    arrays = {"x": values(2, 1, 4), "w": values(3, 1, 2, seed=1), "b": values(3, seed=2)}
    check_numeric([node("Conv", ["x", "w", "b"], ["y"])], arrays, ["x", "w", "b"])
    arrays["w"] = values(1, 3, 2, seed=1)
    check_numeric([node("ConvTranspose", ["x", "w", "b"], ["y"])], arrays, ["b"])


def test_three_spatial_axes_are_refused_by_name():
    arrays = {"x": values(1, 1, 3, 3, 3), "w": values(1, 1, 2, 2, 2)}
    with pytest.raises(AutodiffError, match=r"conv3.*3 spatial axes"):
        check_adjoint([node("Conv", ["x", "w"], ["y"], name="conv3")], arrays, ["w"])


# --- every form of the weight gradient gives the same value -------------------------------------------------

FORMS = [convolution._columns, convolution._swapped]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "pads"),
    [
        ((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
        ((5, 3), (2, 1), (1, 2), (2, 0, 1, 3)),
        ((1, 1), (1, 1), (1, 1), (0, 0, 0, 0)),
        ((4,), (3,), (2,), (1, 2)),
    ],
)
def test_forms_of_the_weight_gradient_agree(form, kernel, stride, dilation, pads):
    size = (9, 10)[: len(kernel)]
    arrays = {"x": values(3, 40, *size), "w": values(5, 40, *kernel, seed=1)}
    conv = node("Conv", ["x", "w"], ["y"], strides=stride, dilations=dilation, pads=pads)
    (y,) = run(model_of([conv], arrays), {"x": arrays["x"]})
    dy = values(*y.shape, seed=2)
    (want,) = gradients([conv], arrays, ["w"], {"y": dy})
    graph = Graph(20)
    rank = len(kernel)
    geometry = convolution.Window(size, kernel, y.shape[2:], stride, dilation, pads[:rank], pads[rank:])
    x, d = (Tensor(n, graph, a.shape, a.dtype) for n, a in (("x", arrays["x"]), ("dy", dy)))
    made = form(x, d, geometry)
    graph.nodes.append(node("Identity", [made.name], ["y"]))
    constants = {**graph.constants, "dy": dy}
    (got,) = run(model_of(graph.nodes, {"x": arrays["x"], **constants}), {"x": arrays["x"]})
    assert error(got, want) < 1e-5


# --- pools --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    size=st.integers(4, 8),
    pad=st.integers(0, 1),
    count=st.integers(0, 1),
    rank=st.integers(1, 2),
)
def test_average_pool(kernel, stride, size, pad, count, rank):
    assume(pad < kernel)
    pool = node(
        "AveragePool",
        ["x"],
        ["y"],
        kernel_shape=[kernel] * rank,
        strides=[stride] * rank,
        pads=[pad] * (2 * rank),
        count_include_pad=count,
    )
    check_adjoint([pool], {"x": values(2, 3, *[size] * rank)}, ["x"])


def test_average_pool_with_a_window_over_the_edge():
    pool = node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    check_adjoint([pool], {"x": values(1, 2, 6, 6)}, ["x"])


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pools(op):
    check_numeric([node(op, ["x"], ["y"])], {"x": values(2, 3, 2, 4)}, ["x"])


@pytest.mark.parametrize(
    ("size", "attributes"),
    [
        ((4, 6), {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ((5, 7), {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ((6, 6), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((6, 7), {"kernel_shape": [3, 2], "strides": [1, 1]}),
        ((6, 6), {"kernel_shape": [2, 2], "strides": [2, 2], "dilations": [2, 2]}),
        ((9,), {"kernel_shape": [3], "strides": [3]}),
        ((8,), {"kernel_shape": [3], "strides": [2]}),
    ],
)
def test_max_pool(size, attributes):
    # Distinct values a good step apart: finite differences must not change who wins.
    x = np.random.default_rng(3).permutation(2 * 2 * int(np.prod(size))).reshape(2, 2, *size) / 7.0
    check_numeric([node("MaxPool", ["x"], ["y"], **attributes)], {"x": x}, ["x"])


@pytest.mark.parametrize("size", [(4, 4), (4, 6)])
def test_a_tied_maximum_goes_to_the_first_cell_of_its_window(size):
    """As in PyTorch. Random inputs are never tied; the background of an image always is."""
    pool = node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    x = np.zeros((1, 2, *size), np.float32)
    dy = values(1, 2, size[0] // 2, size[1] // 2)
    (dx,) = gradients([pool], {"x": x}, ["x"], {"y": dy})
    want = np.zeros_like(x)
    want[:, :, ::2, ::2] = dy
    np.testing.assert_array_equal(dx, want)


def first_maximum(x, dy):
    """What a 2×2 pool's gradient is, cell by cell."""
    dx = np.zeros_like(x)
    for n, c, i, j in np.ndindex(*dy.shape):
        window = x[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        a, b = divmod(int(np.argmax(window)), 2)
        dx[n, c, 2 * i + a, 2 * j + b] = dy[n, c, i, j]
    return dx


def test_every_pattern_of_ties_in_a_window():
    patterns = np.array(list(np.ndindex(3, 3, 3, 3)), np.float32)
    x = patterns.reshape(81, 1, 2, 2)
    dy = values(81, 1, 1, 1)
    pool = node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    (dx,) = gradients([pool], {"x": x}, ["x"], {"y": dy})
    np.testing.assert_array_equal(dx, first_maximum(x, dy))


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [(2, 3), (4, 5)])
def test_conv_transpose_with_auto_pad(auto_pad, stride, kernel):
    arrays = {"x": values(2, 2, 4, 5), "w": values(2, 3, *kernel, seed=1)}
    conv = node("ConvTranspose", ["x", "w"], ["y"], auto_pad=auto_pad, strides=[stride, stride])
    check_adjoint([conv], arrays, ["x", "w"])


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("shape", [[8, 9], [7, 11]])
def test_conv_transpose_with_output_shape(auto_pad, shape):
    arrays = {"x": values(2, 2, 4, 5), "w": values(2, 3, 3, 4, seed=1)}
    conv = node("ConvTranspose", ["x", "w"], ["y"], auto_pad=auto_pad, strides=[2, 2], output_shape=shape)
    check_adjoint([conv], arrays, ["x", "w"])


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pools_with_auto_pad(op, auto_pad):
    x = np.random.default_rng(3).permutation(2 * 2 * 6 * 7).reshape(2, 2, 6, 7) / 7.0
    pool = node(op, ["x"], ["y"], kernel_shape=[3, 2], strides=[2, 2], auto_pad=auto_pad)
    # A maximum is linear while nobody overtakes anybody, so the identity holds for both.
    check_adjoint([pool], {"x": x.astype(np.float32)}, ["x"])


@pytest.mark.parametrize("size", [(6, 7), (5, 5), (9,)])
@pytest.mark.parametrize("kernel", [2, 3])
def test_max_pool_with_ceil_mode(size, kernel):
    """Windows that hang over the edge; the cells are in the order of their values, so no difference can be tied."""
    x = (
        np.random.default_rng(4)
        .permutation(2 * 2 * int(np.prod(size)))
        .reshape(2, 2, *size)
        .astype(np.float32)
    )
    pool = node(
        "MaxPool", ["x"], ["y"], kernel_shape=[kernel] * len(size), strides=[2] * len(size), ceil_mode=1
    )
    (y,) = run(model_of([pool], {"x": x}), {"x": x})
    dy = values(*y.shape)
    (dx,) = gradients([pool], {"x": x}, ["x"], {"y": dy})
    want = np.zeros_like(x)
    for at in np.ndindex(*y.shape):
        place = tuple(slice(2 * i, 2 * i + kernel) for i in at[2:])
        window = x[at[:2]][place]
        first = np.unravel_index(int(np.argmax(window)), window.shape)
        want[at[:2]][tuple(p.start + f for p, f in zip(place, first, strict=True))] += dy[at]
    np.testing.assert_allclose(dx, want, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    kernel=st.integers(2, 3), stride=st.integers(1, 3), pad=st.integers(0, 1), size=st.integers(4, 7),
    levels=st.integers(1, 3), rank=st.integers(1, 2),
)  # fmt: skip
def test_ties_of_any_window_go_to_the_first_maximum(kernel, stride, pad, size, levels, rank):
    """Constant regions, as an image's background: PyTorch's choice is the first cell in row-major order."""
    x = np.random.default_rng(5).integers(0, levels, (2, 2, *[size] * rank)).astype(np.float32)
    pool = node(
        "MaxPool",
        ["x"],
        ["y"],
        kernel_shape=[kernel] * rank,
        strides=[stride] * rank,
        pads=[pad] * (2 * rank),
    )
    (y,) = run(model_of([pool], {"x": x}), {"x": x})
    dy = values(*y.shape)
    (dx,) = gradients([pool], {"x": x}, ["x"], {"y": dy})
    padded = np.pad(x, [(0, 0), (0, 0), *[(pad, pad + kernel)] * rank], constant_values=-np.inf)
    want = np.zeros_like(padded)
    for at in np.ndindex(*y.shape):
        place = tuple(slice(stride * i, stride * i + kernel) for i in at[2:])
        window = padded[at[:2]][place]
        first = np.unravel_index(int(np.argmax(window)), window.shape)
        want[at[:2]][tuple(p.start + f for p, f in zip(place, first, strict=True))] += dy[at]
    inner = (slice(None), slice(None), *[slice(pad, pad + size)] * rank)
    np.testing.assert_allclose(dx, want[inner], rtol=1e-5, atol=1e-6)
