"""Loss heads. Each gives the loss of every sample and the gradient of the weighted mean, as ONNX nodes.

With sample weights w the loss is Σ wᵢ·lᵢ / Σ wᵢ: a padded sample of weight zero changes nothing, also not the
divisor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from learning.autodiff.errors import AutodiffError
from learning.autodiff.graph import Graph, Shape, Tensor


@dataclass(frozen=True)
class Head:
    """Nodes of a loss: `per_sample` [N], `gradient` like the logits, `correct` [N] float or None."""

    per_sample: Tensor
    gradient: Tensor
    correct: Tensor | None


# (graph, output of the model, labels, weights / Σ weights [N]) → Head
Build = Callable[[Graph, Tensor, Tensor, Tensor], Head]


@dataclass(frozen=True)
class Loss:
    """A line of the loss table: what labels it takes and how it is built."""

    name: str
    label_dtype: str
    label_shape: Callable[[Shape], Shape]
    build: Build
    about: str


LOSSES: dict[str, Loss] = {}


def loss(
    name: str, *, labels: str, shape: Callable[[Shape], Shape], about: str
) -> Callable[[Callable[..., Head]], Callable[..., Head]]:
    def register(function: Callable[..., Head]) -> Callable[..., Head]:
        LOSSES[name] = Loss(name, labels, shape, function, about)
        return function

    return register


def find(name: str) -> Loss:
    if name not in LOSSES:
        raise AutodiffError(f"unknown loss {name!r}: choose one of {', '.join(sorted(LOSSES))}")
    return LOSSES[name]


def _classes_last(logits: Tensor) -> None:
    if logits.rank != 2:
        raise AutodiffError(
            f"this loss wants logits of shape [batch, classes], the model gives {list(logits.dims)}"
        )


def _column(weights: Tensor, rank: int) -> Tensor:
    """[N] as [N, 1, ...], to be broadcast over a sample."""
    return weights if rank == 1 else weights.graph.reshape(weights, [-1, *[1] * (rank - 1)])


def _one_hot(g: Graph, logits: Tensor, labels: Tensor) -> Tensor:
    """A comparison with all classes; onnxruntime's OneHot takes four times as long."""
    classes = g.constant(np.arange(logits.dims[-1], dtype=np.int64))
    hit = g.op("Equal", g.reshape(labels, [*logits.dims[:-1], 1]), classes)
    return Tensor(g.cast(hit, logits.dtype or np.float32).name, g, logits.dims, logits.dtype)


@loss(
    "softmax_cross_entropy",
    labels="int64",
    shape=lambda s: s[:1],
    about="integer labels, [batch, classes] logits",
)
def softmax_cross_entropy(
    g: Graph, logits: Tensor, labels: Tensor, share: Tensor, *, label_smoothing: float = 0.0
) -> Head:
    """−Σ q·log softmax(z); q is one-hot, smoothed to (1−ε)·onehot + ε/K. Gradient: softmax(z) − q."""
    _classes_last(logits)
    classes = logits.dims[-1]
    off = label_smoothing / classes
    target = _one_hot(g, logits, labels)
    if label_smoothing:
        target = target * (1.0 - label_smoothing) + off
    log_p = g.op("LogSoftmax", logits, axis=-1)
    per_sample = -g.sum(target * log_p, [1])
    gradient = (g.op("Exp", log_p) - target) * _column(share, 2)
    hits = g.op("Equal", g.op("ArgMax", logits, axis=1, keepdims=0), labels)
    return Head(per_sample, gradient, g.cast(hits, logits.dtype or np.float32))


@loss("mean_squared_error", labels="float32", shape=lambda s: s, about="float targets of the output's shape")
def mean_squared_error(g: Graph, output: Tensor, labels: Tensor, share: Tensor) -> Head:
    """Mean over the elements of a sample of (y − t)²."""
    rest = math.prod(output.dims[1:])
    difference = output - labels
    squares = difference * difference
    per_sample = g.mean(squares, list(range(1, output.rank)), keep=False) if output.rank > 1 else squares
    return Head(per_sample, difference * (2.0 / rest) * _column(share, output.rank), None)


@loss(
    "binary_cross_entropy",
    labels="float32",
    shape=lambda s: s,
    about="targets in [0, 1], logits of any shape",
)
def binary_cross_entropy(g: Graph, logits: Tensor, labels: Tensor, share: Tensor) -> Head:
    """With logits: max(z, 0) − z·t + log(1 + e^−|z|), which never overflows. Gradient: σ(z) − t."""
    rest = math.prod(logits.dims[1:])
    zero = g.constant(np.asarray(0, logits.dtype))
    softplus = g.op("Softplus", -g.op("Abs", logits))
    each = g.op("Max", logits, zero) - logits * labels + softplus
    per_sample = g.mean(each, list(range(1, logits.rank)), keep=False) if logits.rank > 1 else each
    gradient = (g.op("Sigmoid", logits) - labels) * (1.0 / rest) * _column(share, logits.rank)
    hits = g.op(
        "Equal",
        g.op("Greater", logits, zero),
        g.op("Greater", labels, g.constant(np.asarray(0.5, labels.dtype))),
    )
    right = g.cast(hits, logits.dtype or np.float32)
    correct = g.mean(right, list(range(1, logits.rank)), keep=False) if logits.rank > 1 else right
    return Head(per_sample, gradient, correct)


@loss(
    "next_token",
    labels="int64",
    shape=lambda s: s[:2],
    about="[batch, length, vocabulary] logits, next tokens",
)
def next_token(g: Graph, logits: Tensor, labels: Tensor, share: Tensor) -> Head:
    """Cross-entropy of every position, averaged over the sequence. Labels are the inputs shifted by one."""
    if logits.rank != 3:
        raise AutodiffError(
            f"next_token wants logits [batch, length, vocabulary], the model gives {list(logits.dims)}"
        )
    length = logits.dims[1]
    target = _one_hot(g, logits, labels)
    log_p = g.op("LogSoftmax", logits, axis=-1)
    per_sample = -g.sum(target * log_p, [1, 2]) * (1.0 / length)
    gradient = (g.op("Exp", log_p) - target) * (_column(share, 3) * (1.0 / length))
    hits = g.cast(
        g.op("Equal", g.op("ArgMax", logits, axis=2, keepdims=0), labels), logits.dtype or np.float32
    )
    return Head(per_sample, gradient, g.mean(hits, [1], keep=False))
