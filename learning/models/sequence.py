"""Models for windows of sensor readings and for text."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto

from learning.models.layers import Net

WINDOW, CHANNELS, ACTIVITIES = 32, 6, 6  # 32 readings of an accelerometer and a gyroscope; six activities


def gru(seed: int) -> onnx.ModelProto:
    """One GRU layer of 128 over 32 readings of 6 sensors, then a linear layer: 52,998 parameters."""
    hidden = 128
    net = Net("gru", seed)
    x = net.op("Transpose", "input", perm=[1, 0, 2])
    w = net.uniform("gru.weight_ih", (1, 3 * hidden, CHANNELS), hidden)
    r = net.uniform("gru.weight_hh", (1, 3 * hidden, hidden), hidden)
    b = net.uniform("gru.bias", (1, 6 * hidden), hidden)
    _, last = net.ops("GRU", x, w, r, b, outputs=2, hidden_size=hidden, linear_before_reset=1)
    state = net.op("Squeeze", last, net.ints(0))
    return net.model((WINDOW, CHANNELS), net.linear("head", state, hidden, ACTIVITIES), (ACTIVITIES,))


def conv1d(seed: int) -> onnx.ModelProto:
    """Three 1-D convolutions (32, 64, 64) over 128 readings of 6 sensors, global average, linear."""
    net = Net("conv1d", seed)
    x = net.op("Relu", net.conv("conv1", "input", CHANNELS, 32, (5,), pads=[2, 2]))
    x = net.op("MaxPool", x, kernel_shape=[2], strides=[2])
    x = net.op("Relu", net.conv("conv2", x, 32, 64, (5,), pads=[2, 2]))
    x = net.op("MaxPool", x, kernel_shape=[2], strides=[2])
    x = net.op("Relu", net.conv("conv3", x, 64, 64, (3,), pads=[1, 1]))
    x = net.op("Flatten", net.op("GlobalAveragePool", x), axis=1)
    return net.model((CHANNELS, 128), net.linear("head", x, 64, ACTIVITIES), (ACTIVITIES,))


CONTEXT, VOCABULARY = 64, 96  # characters of context; printable ASCII and newline


def transformer(seed: int) -> onnx.ModelProto:
    """A causal character transformer: 2 layers, 4 heads, width 64, pre-norm, GELU; next-character logits."""
    width, layers = 64, 2
    net = Net("transformer", seed)
    embedded = net.op("Gather", net.normal("embedding", (VOCABULARY, width), 0.02), "input")
    x = net.op("Add", embedded, net.normal("position", (1, CONTEXT, width), 0.02))
    for layer in range(layers):
        x = _block(net, f"block{layer}", x, width)
    x = _norm(net, "norm", x, width)
    return net.model(
        (CONTEXT,), _project(net, "head", x, width, VOCABULARY), (CONTEXT, VOCABULARY), TensorProto.INT64
    )


def _norm(net: Net, name: str, x: str, width: int) -> str:
    scale = net.tensor(f"{name}.scale", np.ones(width, np.float32))
    shift = net.tensor(f"{name}.shift", np.zeros(width, np.float32))
    return net.op("LayerNormalization", x, scale, shift, axis=-1)


def _project(net: Net, name: str, x: str, inputs: int, outputs: int) -> str:
    weight = net.uniform(f"{name}.weight", (inputs, outputs), inputs)
    return net.op("Add", net.op("MatMul", x, weight), net.uniform(f"{name}.bias", (outputs,), inputs))


def _block(net: Net, name: str, x: str, width: int) -> str:
    x = net.op("Add", x, _attention(net, f"{name}.attention", _norm(net, f"{name}.norm1", x, width), width))
    inner = _project(net, f"{name}.up", _norm(net, f"{name}.norm2", x, width), width, 4 * width)
    return net.op("Add", x, _project(net, f"{name}.down", _gelu(net, inner), 4 * width, width))


def _gelu(net: Net, x: str) -> str:
    """x/2·(1 + erf(x/√2)): as an operator of its own Gelu needs opset 20."""
    erf = net.op("Erf", net.op("Mul", x, net.scalar(math.sqrt(0.5))))
    return net.op("Mul", net.op("Mul", x, net.scalar(0.5)), net.op("Add", erf, net.scalar(1.0)))


def _attention(net: Net, name: str, x: str, width: int, heads: int = 4) -> str:
    size = width // heads
    qkv = net.op(
        "Reshape", _project(net, f"{name}.qkv", x, width, 3 * width), net.ints(0, CONTEXT, 3, heads, size)
    )
    heads_first = net.op("Transpose", qkv, perm=[2, 0, 3, 1, 4])
    parts = net.ops("Split", heads_first, outputs=3, axis=0)
    q, k, v = (net.op("Squeeze", part, net.ints(0)) for part in parts)
    q = net.op("Mul", q, net.scalar(1 / math.sqrt(size)))  # before the product: a quarter of the elements
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    mask = np.triu(np.full((CONTEXT, CONTEXT), -1e9, np.float32), 1)
    masked = net.op("Add", scores, net.tensor(f"{name}.mask", mask))
    mixed = net.op("Transpose", net.op("MatMul", net.op("Softmax", masked, axis=-1), v), perm=[0, 2, 1, 3])
    return _project(net, f"{name}.out", net.op("Reshape", mixed, net.ints(0, CONTEXT, width)), width, width)
