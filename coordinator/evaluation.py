"""Evaluation beside the loop: one worker thread, results come back as events."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable
from typing import Protocol

from coordinator import events as e
from learning.evaluator import Evaluation
from wire.codecs.arrays import Float32

# Versions wait here only when rounds are shorter than an evaluation; then the oldest is given up.
WAITING_MAX = 4

CLASSES_MAX = 32  # of a confusion matrix in the record: 1,024 counts are some kB per version


class Evaluates(Protocol):
    def evaluate(self, flat_params: Float32) -> Evaluation: ...


class EvaluationWorker:
    """`post` is called from the worker's thread with the result."""

    def __init__(self, evaluator: Evaluates, post: Callable[[e.Event], object]) -> None:
        self._evaluator, self._post = evaluator, post
        self._jobs: queue.Queue[tuple[int, Float32] | None] = queue.Queue(WAITING_MAX)
        self._thread = threading.Thread(target=self._work, name="evaluation", daemon=True)
        self._thread.start()

    def submit(self, version: int, parameters: Float32) -> None:
        while True:
            try:
                self._jobs.put_nowait((version, parameters))
                return
            except queue.Full:
                self._give_up_oldest()

    def _give_up_oldest(self) -> None:
        try:
            job = self._jobs.get_nowait()
        except queue.Empty:
            return
        if job is not None:
            self._post(
                e.EvaluationFailed(version=job[0], reason="newer versions came faster than evaluations")
            )

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            version, parameters = job
            try:
                result = self._evaluator.evaluate(parameters)
            except Exception as error:  # noqa: BLE001 - whatever the runtime raises, the run must learn of it
                self._post(e.EvaluationFailed(version=version, reason=f"{type(error).__name__}: {error}"))
                continue
            self._post(evaluated(version, result))

    def stop(self) -> None:
        """Do not wait for a running evaluation: nobody wants its result."""
        while not self._jobs.empty():
            self._give_up_oldest()
        self._jobs.put(None)


def evaluated(version: int, result: Evaluation) -> e.Evaluated:
    """An evaluation as the run's record has it: finite numbers only, matrices of bounded size."""
    found = {"f1": result.f1, "mse": result.mse, "perplexity": result.perplexity}
    small = len(result.confusion) <= CLASSES_MAX
    return e.Evaluated(
        version=version,
        accuracy=result.accuracy,
        loss=result.loss,
        samples=result.samples,
        per_class=tuple(None if math.isnan(a) else a for a in result.per_class_accuracy) if small else (),
        metrics={name: value for name, value in found.items() if value is not None and math.isfinite(value)},
        confusion=tuple(tuple(row) for row in result.confusion.tolist()) if small else (),
    )
