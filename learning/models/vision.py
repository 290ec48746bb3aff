"""Models for 28×28 grey images."""

from __future__ import annotations

import onnx

from learning.models.layers import Net


def mlp(seed: int) -> onnx.ModelProto:
    """784-200-200-10, the "2NN" of McMahan et al. 2017 (arXiv:1602.05629, section 3): 199,210 parameters."""
    net = Net("mlp", seed)
    x = net.op("Flatten", "input", axis=1)
    x = net.op("Relu", net.linear("fc1", x, 784, 200))
    x = net.op("Relu", net.linear("fc2", x, 200, 200))
    return net.model((1, 28, 28), net.linear("fc3", x, 200, 10), (10,))


def cnn(seed: int) -> onnx.ModelProto:
    """Two 5×5 convolutions (32, 64) with 2×2 max pooling, 512, 10: the CNN of McMahan et al. 2017; 1,663,370.

    Pooling comes before ReLU: both orders give the same values and gradients, and this one has a quarter of
    the work.
    """
    net = Net("cnn", seed)
    x = net.conv("conv1", "input", 1, 32, (5, 5), pads=[2, 2, 2, 2])
    x = net.op("Relu", net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]))
    x = net.conv("conv2", x, 32, 64, (5, 5), pads=[2, 2, 2, 2])
    x = net.op("Relu", net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]))
    x = net.op("Flatten", x, axis=1)
    x = net.op("Relu", net.linear("fc1", x, 7 * 7 * 64, 512))
    return net.model((1, 28, 28), net.linear("fc2", x, 512, 10), (10,))


def mobile_cnn(seed: int) -> onnx.ModelProto:
    """A depthwise-separable network after MobileNet (Howard et al. 2017): a stem and four 3×3/1×1 pairs."""
    net = Net("mobile-cnn", seed)
    x = net.op("Relu", net.conv("stem", "input", 1, 16, (3, 3), strides=[2, 2], pads=[1, 1, 1, 1]))
    channels = 16
    for index, (outputs, stride) in enumerate([(32, 1), (64, 2), (64, 1), (128, 2)], start=1):
        depthwise = {"strides": [stride, stride], "pads": [1, 1, 1, 1]}
        x = net.conv(f"depthwise{index}", x, channels, channels, (3, 3), groups=channels, **depthwise)
        x = net.op("Relu", net.conv(f"pointwise{index}", net.op("Relu", x), channels, outputs, (1, 1)))
        channels = outputs
    x = net.op("Flatten", net.op("GlobalAveragePool", x), axis=1)
    return net.model((1, 28, 28), net.linear("head", x, channels, 10), (10,))
