"""Forms of one gradient, timed per shape: python -m benchmarks.gradient_forms [--write] [--json]

A weight gradient of a convolution has several forms of equal value (learning/autodiff/rules/convolution.py), and a
depthwise layer two layouts (learning/autodiff/layout.py). This times all of them on the reference models' layers and
some others, batch 32, one thread, interleaved; `--write` records the medians in benchmarks/data/gradient_forms.json,
against which a test holds what the code chooses.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from learning.artifact import InputSpec
from learning.autodiff import build_training_graph, initial_parameters, layout
from learning.autodiff.graph import Graph, Tensor, prune
from learning.autodiff.rules import convolution
from learning.autodiff.rules.convolution import Window
from learning.session import StepSession

RECORDED = Path(__file__).parent / "data" / "gradient_forms.json"
BATCH, REPEATS = 32, 15

# (name, input channels, spatial size, output channels, kernel, stride, pad, groups)
Layer = tuple[str, int, tuple[int, ...], int, tuple[int, ...], int, int, int]
LAYERS: list[Layer] = [
    ("cnn conv1", 1, (28, 28), 32, (5, 5), 1, 2, 1),
    ("cnn conv2", 32, (14, 14), 64, (5, 5), 1, 2, 1),
    ("conv1d conv1", 6, (128,), 32, (5,), 1, 2, 1),
    ("conv1d conv2", 32, (64,), 64, (5,), 1, 2, 1),
    ("conv1d conv3", 64, (32,), 64, (3,), 1, 1, 1),
    ("mobile-cnn stem", 1, (28, 28), 16, (3, 3), 2, 1, 1),
    ("mobile-cnn pointwise2", 32, (7, 7), 64, (1, 1), 1, 0, 1),
    ("3x3 16 to 32", 16, (28, 28), 32, (3, 3), 1, 1, 1),
    ("3x3 64 to 64", 64, (14, 14), 64, (3, 3), 1, 1, 1),
    ("1x1 64 to 128", 64, (14, 14), 128, (1, 1), 1, 0, 1),
]
DEPTHWISE: list[Layer] = [
    ("mobile-cnn depthwise1", 16, (14, 14), 16, (3, 3), 1, 1, 16),
    ("mobile-cnn depthwise2", 32, (14, 14), 32, (3, 3), 2, 1, 32),
    ("mobile-cnn depthwise3", 64, (7, 7), 64, (3, 3), 1, 1, 64),
    ("mobile-cnn depthwise4", 64, (7, 7), 64, (3, 3), 2, 1, 64),
    ("depthwise 32 of 28", 32, (28, 28), 32, (3, 3), 1, 1, 32),
    ("depthwise 64 of 14", 64, (14, 14), 64, (3, 3), 1, 1, 64),
    ("depthwise 1-D", 32, (64,), 32, (5,), 1, 2, 32),
]
# What the two limits of learning.autodiff.layout are set to for each form of a depthwise layer.
LAYOUTS = {"by channel": (0, 0), "by row": (1 << 20, 0), "by image": (1 << 20, 1 << 20)}
WEIGHT_FORMS = {
    f.__name__.strip("_"): f for f in (convolution._pointwise, convolution._columns, convolution._swapped)
}


def geometry(layer: Layer) -> Window:
    _, _, size, _, kernel, stride, pad, groups = layer
    rank = len(size)
    out = tuple((s + 2 * pad - k) // stride + 1 for s, k in zip(size, kernel, strict=True))
    return Window(size, kernel, out, (stride,) * rank, (1,) * rank, (pad,) * rank, (pad,) * rank, groups)


def forms(layer: Layer) -> dict[str, Callable[..., Tensor]]:
    """The forms that can compute this layer's weight gradient."""
    single = all(k == 1 for k in layer[4])
    return {name: form for name, form in WEIGHT_FORMS.items() if name != "pointwise" or single}


def chosen(layer: Layer) -> str:
    """What the code takes for this layer."""
    _, channels, size, outputs, kernel, *_, groups = layer
    if groups == channels > 1:
        rows = (kernel[0] if len(kernel) == 2 else 1) * size[-1]
        if rows > layout.TOEPLITZ_ROWS_MAX:
            return "by channel"
        return "by image" if int(np.prod(size)) <= layout.WHOLE_CELLS_MAX else "by row"
    return convolution.form_of(channels, outputs, geometry(layer)).__name__.strip("_")


def weight_step(layer: Layer, form: Callable[..., Tensor]) -> Callable[[], Any]:
    """A session that computes dw from x and dy."""
    _, channels, size, outputs, *_ = layer
    g = geometry(layer)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((BATCH, channels, *size)).astype(np.float32)
    dy = rng.standard_normal((BATCH, outputs, *g.out)).astype(np.float32)
    graph = Graph(17)
    made = form(Tensor("x", graph, x.shape, x.dtype), Tensor("dy", graph, dy.shape, dy.dtype), g)
    nodes, used = prune(graph.nodes, [made.name])
    info = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, a.shape) for n, a in (("x", x), ("dy", dy))
    ]
    body = helper.make_graph(
        nodes, "form", info, [helper.make_empty_tensor_value_info(made.name)],
        initializer=[numpy_helper.from_array(a, n) for n, a in graph.constants.items() if n in used],
    )  # fmt: skip
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level, options.enable_mem_pattern = 1, 3, False
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run([made.name], {"x": x, "dy": dy})


def layer_step(layer: Layer, limits: tuple[int, int]) -> Callable[[], Any]:
    """Forward pass and all gradients of a depthwise layer after a pointwise one, as in its models."""
    _, channels, size, _, kernel, stride, pad, groups = layer
    rng, rank = np.random.default_rng(1), len(size)
    arrays = {
        "first.weight": rng.standard_normal((channels, 4, *[1] * rank)).astype(np.float32),
        "weight": rng.standard_normal((channels, 1, *kernel)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "first.weight"], ["a"]),
        helper.make_node(
            "Conv", ["a", "weight"], ["y"], group=groups, strides=[stride] * rank, pads=[pad] * 2 * rank
        ),
        helper.make_node("GlobalAveragePool", ["y"], ["p"]),
        helper.make_node("Flatten", ["p"], ["z"]),
    ]
    body = helper.make_graph(
        nodes, "layer", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [BATCH, 4, *size])],
        [helper.make_empty_tensor_value_info("z")],
        initializer=[numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    rows, cells = limits
    with mock.patch.multiple(layout, TOEPLITZ_ROWS_MAX=rows, WHOLE_CELLS_MAX=cells):
        artifact = build_training_graph(
            model, batch_size=BATCH, scaling=InputSpec(dtype="float32", scale=1.0)
        )
    flat = initial_parameters(model, artifact)
    return StepSession(artifact, flat, np.empty_like(flat)).run


def timed(steps: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median CPU milliseconds of each, taking turns."""
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(REPEATS + 3):
        for name, step in steps.items():
            began = time.thread_time()
            step()
            if turn >= 3:
                spent[name].append(time.thread_time() - began)
    return {name: round(float(np.median(times)) * 1e3, 3) for name, times in spent.items()}


def measure() -> dict[str, dict[str, Any]]:
    result = {}
    for layer in LAYERS:
        times = timed({name: weight_step(layer, form) for name, form in forms(layer).items()})
        result[layer[0]] = {"ms": times, "chosen": chosen(layer)}
    for layer in DEPTHWISE:
        times = timed({name: layer_step(layer, limits) for name, limits in LAYOUTS.items()})
        result[layer[0]] = {"ms": times, "chosen": chosen(layer)}
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="record the result")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    result = measure()
    if args.write:
        RECORDED.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.json:
        print(json.dumps(result))
        return 0
    for name, row in result.items():
        marked = [f"{form}{'*' if form == row['chosen'] else ''} {ms:.2f}" for form, ms in row["ms"].items()]
        print(f"{name:24} {'  '.join(marked)} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
