"""Client drift: of every merged update its norm, and its cosine to the mean of the updates of its version.

Recomputed from the journal, beside the loop and after the version is durable, so that a merge costs what it did: the
mean is only known once the last update is in it. Two passes over the recorded updates, one update and one mean in
memory, whatever the cohort. The mean is that of FedAvg, Σ nᵢ·sᵢ·uᵢ, whichever rule made the version; statistics
(BatchNorm) are no direction and are left out.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coordinator.journal import JournalError, connect
from coordinator.merge import UpdateRefused, checked, checked_pair
from coordinator.merges import PAIRED, MergeSpec
from coordinator.statistics import without
from wire.codecs import Decoded
from wire.codecs.arrays import BLOCK, Float32

log = logging.getLogger("coordinator")

# Versions wait here only when rounds are shorter than two passes over their updates; those that find no room go
# without.
WAITING_MAX = 16
STOP_S = 20.0  # the last version's figures, on a slow host with a large model


class Row(NamedTuple):
    task: str
    agent: str
    weight: float  # n·s


class UpdateDrift(NamedTuple):
    """`cosine` None: the update or the mean is zero."""

    task: str
    agent: str
    norm: float
    cosine: float | None


def measure(rows: list[Row], update_of: Callable[[str], Decoded], n: int) -> Iterator[UpdateDrift]:
    """`update_of`: the decoded update of a task, asked for twice."""
    mean: Float32 = np.zeros(n, np.float32)
    norms = []
    for row in rows:
        update = update_of(row.task)
        norms.append(update.norm())
        update.add_into(mean, row.weight)
    length = Decoded(n, None, mean).norm()
    for row, norm in zip(rows, norms, strict=True):
        both = norm * length
        cosine = dot(update_of(row.task), mean) / both if both > 0 else None
        yield UpdateDrift(row.task, row.agent, norm, None if cosine is None else min(1.0, max(-1.0, cosine)))


def dot(update: Decoded, vector: Float32) -> float:
    """In double precision, block by block."""
    total = 0.0
    for start in range(0, update.values.size, BLOCK):
        part = slice(start, start + BLOCK)
        at = part if update.positions is None else update.positions[part]
        total += float(np.dot(update.values[part].astype(np.float64), vector[at].astype(np.float64)))
    return total


class Recorded:
    """The updates of a journal, read-only."""

    def __init__(self, path: Path, parameters: int, spec: MergeSpec) -> None:
        self._path, self._n, self._spec = path, parameters, spec

    def drift(self, version: int) -> list[UpdateDrift]:
        """Raises JournalError for updates that were let go, sqlite3.Error."""
        db = connect(self._path, read_only=True)
        try:
            found = db.execute(
                "SELECT m.task, t.agent, m.samples * m.factor FROM merges m JOIN tasks t USING (task)"
                " WHERE m.version = ? ORDER BY m.position",
                (version,),
            )
            rows = [Row(*row) for row in found.fetchall()]
            return list(measure(rows, lambda task: self._update(db, task), self._n))
        finally:
            db.close()

    def _update(self, db: sqlite3.Connection, task: str) -> Decoded:
        row = db.execute("SELECT payload FROM updates WHERE task = ?", (task,)).fetchone()
        if row is None or row[0] is None:
            raise JournalError(f"the update of {task} is not there any more")
        paired = self._spec.rule.kind in PAIRED
        update = checked_pair(row[0], self._n)[0] if paired else checked(row[0], self._n)
        return without(update, self._spec.state) if self._spec.state else update


class DriftWorker:
    """One thread; `done` fills with the fields of `drift` events, for the loop to record."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self.done: queue.SimpleQueue[dict[str, object]] = queue.SimpleQueue()
        self._jobs: queue.Queue[tuple[int, int] | None] = queue.Queue(WAITING_MAX)
        self._thread = threading.Thread(target=self._work, name="drift", daemon=True)
        self._thread.start()

    def submit(self, version: int, round_: int) -> None:
        try:
            self._jobs.put_nowait((version, round_))
        except queue.Full:
            log.info("the drift of version %d is not computed: versions come faster", version)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            version, round_ = job
            try:
                found = self._recorded.drift(version)
            except (JournalError, UpdateRefused, sqlite3.Error, OSError, MemoryError) as error:
                log.warning("the drift of version %d is not known: %s", version, error)
                continue
            updates = [x._asdict() for x in found]
            self.done.put({"version": version, "round": round_, "updates": updates})

    def take(self) -> Iterator[dict[str, object]]:
        """What is done by now."""
        while not self.done.empty():
            yield self.done.get()

    def stop(self) -> Iterator[dict[str, object]]:
        """Finish what waits, within bounds."""
        try:
            self._jobs.put_nowait(None)
        except queue.Full:
            return self.take()
        self._thread.join(STOP_S)
        return self.take()
