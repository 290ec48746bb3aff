"""Evaluation on held-out data: the coordinator's side; numpy and onnxruntime only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct, field

from learning.artifact import ArtifactError, Flat, TrainingArtifact, unflatten
from learning.session import INPUT_TYPES, open_session
from learning.shard import Shard
from learning.travelling import travelling

Array = npt.NDArray[Any]


class Evaluation(Struct, kw_only=True):
    """`confusion[true, predicted]` counts; empty for losses without classes. binary_cross_entropy has the classes 0 and
    1, all outputs of a sample counted together.

    `f1` is the macro average over classes that occur; `mse` for regression; `perplexity` is e^loss for
    next_token.
    """

    samples: int
    loss: float
    accuracy: float | None = None
    f1: float | None = None
    mse: float | None = None
    perplexity: float | None = None
    per_class_accuracy: list[float] = field(default_factory=list)
    confusion: Array = field(default_factory=lambda: np.zeros((0, 0), np.int64))


class Evaluator:
    """Runs the inference graph over a shard. One instance serves all versions: parameters come with each
    call.
    """

    def __init__(self, artifact: TrainingArtifact, shard: Shard, batch: int = 100, threads: int = 1) -> None:
        self.artifact, self.shard = artifact, shard
        self.session = open_session(artifact.inference, threads)
        fixed = self.session.get_inputs()[0].shape[0]
        self.batch = fixed if isinstance(fixed, int) else batch
        if artifact.loss not in LOSSES:
            raise ArtifactError(f"no evaluation for loss {artifact.loss!r}")

    def evaluate(self, flat_params: Flat) -> Evaluation:
        """Loss and metrics over the whole shard: of a whole vector, or of a version as it travels."""
        moving = travelling(self.artifact)
        if flat_params.size == moving.size < self.artifact.size:
            flat_params = moving.widen(flat_params)
        feeds: dict[str, Array] = {f"p:{n}": v for n, v in unflatten(self.artifact, flat_params).items()}
        total, samples = 0.0, 0
        classes = self.artifact.output_shape[-1] if self.artifact.output_shape else 0
        classify = CLASSES.get(self.artifact.loss)
        classes = 2 if self.artifact.loss == "binary_cross_entropy" else classes
        confusion = np.zeros((classes, classes), np.int64) if classify is not None else None
        for x, y, real in self._batches():
            output = self.session.run(["output"], {"x": x, **feeds})[0][:real]
            total += float(LOSSES[self.artifact.loss](output, y).sum(dtype=np.float64))
            samples += real
            if confusion is not None and classify is not None:
                count_pairs(confusion, *classify(output, y))
        return _summary(self.artifact.loss, samples, total / samples, confusion)

    def _batches(self) -> Iterator[tuple[Array, Array, int]]:
        spec, labels = self.artifact.input, self.artifact.labels
        for start in range(0, len(self.shard), self.batch):
            x = self.shard.x[start : start + self.batch]
            y = np.asarray(self.shard.y[start : start + self.batch])
            real = len(x)
            if real < self.batch:
                x = np.concatenate([x, np.repeat(x[:1], self.batch - real, axis=0)])
            kind = np.int64 if labels.dtype == "int64" else np.float32
            yield (
                np.ascontiguousarray(x.reshape(self.batch, *spec.shape), INPUT_TYPES[spec.dtype]),
                y.astype(kind).reshape(real, *labels.shape),
                real,
            )


def _summary(kind: str, samples: int, loss: float, confusion: npt.NDArray[np.int64] | None) -> Evaluation:
    if confusion is None or not confusion.size:
        return Evaluation(samples=samples, loss=loss, mse=loss if kind == "mean_squared_error" else None)
    rows = confusion.sum(axis=1)
    hits = np.diag(confusion)
    return Evaluation(
        samples=samples,
        loss=loss,
        accuracy=float(hits.sum() / rows.sum()),
        f1=macro_f1(confusion),
        # Beyond e^50 a perplexity says no more than "diverged", and e^800 would overflow.
        perplexity=float(np.exp(min(loss, 50.0))) if kind == "next_token" else None,
        per_class_accuracy=[float(h / r) if r else float("nan") for h, r in zip(hits, rows, strict=True)],
        confusion=confusion,
    )


def count_pairs(confusion: npt.NDArray[np.int64], true: Array, predicted: Array) -> None:
    size = len(confusion)
    pairs = np.bincount(true.reshape(-1) * size + predicted.reshape(-1), minlength=size * size)
    confusion += pairs.reshape(size, size)


def macro_f1(confusion: npt.NDArray[np.int64]) -> float:
    """Mean over the classes that occur of 2·TP / (2·TP + FP + FN)."""
    hits, rows, columns = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    seen = rows > 0
    return float((2 * hits[seen] / (rows[seen] + columns[seen])).mean())


def log_softmax(z: Array) -> Array:
    z = z - z.max(axis=-1, keepdims=True)
    shifted: Array = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return shifted


def _cross_entropy(z: Array, y: Array) -> Array:
    picked: Array = -np.take_along_axis(log_softmax(z), y[..., None], axis=-1)[..., 0]
    mean: Array = picked.reshape(len(picked), -1).mean(axis=1)
    return mean


def _squared_error(z: Array, y: Array) -> Array:
    each: Array = ((z - y) ** 2).reshape(len(z), -1)
    mean: Array = each.mean(axis=1)
    return mean


def _binary_cross_entropy(z: Array, y: Array) -> Array:
    each: Array = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
    mean: Array = each.reshape(len(z), -1).mean(axis=1)
    return mean


# What counts as the true and the predicted class, by loss; a regression has neither.
CLASSES: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "softmax_cross_entropy": lambda z, y: (y, z.argmax(-1)),
    "next_token": lambda z, y: (y, z.argmax(-1)),
    "binary_cross_entropy": lambda z, y: ((y > 0.5).astype(np.int64), (z > 0).astype(np.int64)),
}

# The same losses as learning.autodiff.losses, per sample, in numpy: evaluation needs no graph of them.
LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "softmax_cross_entropy": _cross_entropy,
    "next_token": _cross_entropy,
    "mean_squared_error": _squared_error,
    "binary_cross_entropy": _binary_cross_entropy,
}
