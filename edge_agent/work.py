"""The worker: jobs of seconds to minutes in a thread of their own, so that heartbeats and messages go on meanwhile.

One job at a time, in the order of submission; every job is answered by one event (`edge_agent.actions`). Only training
can be interrupted, between two steps; what else runs takes a second at most and is answered as usual.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

from edge_agent import events as e
from edge_agent.jobs import PROGRESS_S, Job, Jobs, OnStep
from edge_agent.ledger import DiskBroken

JOBS_MAX = 8  # the core has one task in hand; more than a few would be our bug
EVERY_TASK = "*"


class Worker(Protocol):
    """What the service asks of it; `simulation` has one without a thread."""

    def start(self) -> None: ...

    def submit(self, job: Job) -> None: ...

    def stop(self, task: str) -> None:
        """Let go of this task soon. The running job answers, as it would have, or with WorkStopped."""

    def discard(self, task: str) -> None: ...

    def close(self, wait_s: float) -> bool:
        """End after the running job, or give up waiting; returns whether nothing runs any more."""


class WorkerThread:
    """`post` takes the events, from the thread."""

    def __init__(
        self,
        jobs: Jobs,
        post: Callable[[e.Event | DiskBroken], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jobs, self._post, self._clock = jobs, post, clock
        self._queue: queue.Queue[Job | None] = queue.Queue(JOBS_MAX)
        self._stop_task = ""
        self._thread = threading.Thread(target=self._serve, name="work", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Job) -> None:
        self._stop_task = ""  # a task that was stopped may come back
        self._queue.put_nowait(job)

    def stop(self, task: str) -> None:
        self._stop_task = task

    def discard(self, task: str) -> None:
        self._jobs.discard(task)

    def close(self, wait_s: float) -> bool:
        self._stop_task = EVERY_TASK
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return False
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                self._post(self._jobs.do(job, self._on_step(job.task)))
            except DiskBroken as broken:
                self._post(broken)
                return

    def _on_step(self, task: str) -> OnStep:
        last = self._clock()

        def on_step(step: int, steps: int) -> bool:
            nonlocal last
            if self._stop_task in (task, EVERY_TASK):
                return False
            now = self._clock()
            if now - last >= PROGRESS_S:
                last = now
                self._post(e.WorkProgressed(task=task, done=step, total=steps))
            return True

        return on_step
