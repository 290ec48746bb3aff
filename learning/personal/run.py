"""A task with personalisation or with tests on the device's own data, step by step.

The personal model is made before the update is trained, so that at most one model more than usual is in memory, and
every figure is of the version received.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from learning.artifact import Flat
from learning.evaluator import Evaluator
from learning.personal.base import Kind, LocalTask
from learning.trainer import TrainResult
from wire.messages import LocalFigures, Measured

LOSS_MAX = 1e9  # what a message may carry; a model beyond it has diverged


def train(kind: Kind | None, task: LocalTask, version: int, *, evaluate: bool) -> TrainResult:
    """The update of a task, with figures if they are asked for. Raises what `Trainer.train` raises."""
    artifact = task.trainer.artifact
    extra = kind.steps(task) if kind is not None else 0
    task.steps_total = extra + task.trainer.steps(task.spec)
    figures = _make(kind, task, version, evaluate=evaluate)
    fixed = artifact.local if kind is not None and kind.head_is_fixed else ()
    result = task.trainer.train(
        task.received, task.spec, task.seed, task.tell, task.correction, own=task.own, fixed=fixed
    )
    result.local = figures
    return result


def survey(kind: Kind | None, task: LocalTask, version: int) -> LocalFigures:
    """Only the figures of a version; what is made for them is forgotten."""
    task.steps_total = kind.steps(task) if kind is not None else 0
    return _make(kind, task, version, evaluate=True) or LocalFigures(version=version)


def _make(kind: Kind | None, task: LocalTask, version: int, *, evaluate: bool) -> LocalFigures | None:
    """Figures, and `task.own` as it will be once the update counts."""
    tested = evaluate and task.test is not None
    received = measure(task, task.whole()) if tested and not (kind is not None and kind.heads) else None
    if kind is None:
        return LocalFigures(version=version, received=received) if tested else None
    made = kind.make(task)
    task.own = replace(made.own)
    if not tested:
        return None
    return LocalFigures(version=version, received=received, personal=measure(task, made.model))


def measure(task: LocalTask, model: Flat) -> Measured | None:
    """A whole vector on the device's own test data; None if its loss is not a number that could be sent."""
    assert task.test is not None, "there is nothing to test on"
    trainer = task.trainer
    evaluator = Evaluator(trainer.artifact, task.test, trainer.artifact.batch_size, trainer.threads)
    with np.errstate(invalid="ignore", over="ignore"):  # a model that diverged is no fault of the device
        found = evaluator.evaluate(model)
    if not (math.isfinite(found.loss) and 0 <= found.loss <= LOSS_MAX):
        return None
    counted = found.accuracy is not None
    return Measured(
        samples=found.samples,
        loss=found.loss,
        answers=int(found.confusion.sum()),
        correct=int(found.confusion.trace()) if counted else None,
    )
