"""The world's own books: what was made, sent, settled and lost, kept apart from everything that is under test."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_agent.ledger import SpoolError
from edge_agent.spool import Spool
from wire import pair
from wire.codecs.decode import decode

Vector = NDArray[np.float64]


def content_of(payload: bytes, n: int, part: int = 0) -> Vector:
    """What was trained (0), or what the control variate moves by (1): zeros where nothing travels with it."""
    if payload[:2] == pair.MAGIC:
        return decode(pair.split(payload)[part], n=n).dense().astype(np.float64)
    return np.zeros(n) if part else decode(payload, n=n).dense().astype(np.float64)


def variate_of(spool: Spool, n: int) -> Vector:
    """The control variate on a device's disk."""
    taken = np.zeros(n, np.float32)
    spool.take_variate_from(taken)
    return -taken.astype(np.float64)


@dataclass
class Settlement:
    task: str
    sha256: str
    give_back: bool


@dataclass
class AgentBooks:
    """Of one device, over all its lives."""

    n: int
    made: Vector = field(init=False)  # sum of the deltas whose update was committed
    sent: Vector = field(init=False)  # sum of the contents that were settled and not given back
    lost: Vector = field(init=False)  # what went with a disk
    lost_variate: Vector = field(init=False)  # the control variates that went with a disk
    contents: dict[str, Vector] = field(default_factory=dict)  # sha256 -> what its payload decodes to
    changes: dict[str, Vector] = field(default_factory=dict)  # sha256 -> what it moves the control variate by
    lost_items: list[tuple[str, str]] = field(
        default_factory=list
    )  # (task, sha256), unsettled on a lost disk
    corrected: list[tuple[int, str]] = field(
        default_factory=list
    )  # (version, sha256 of the c it was trained with)
    tasks: dict[str, str] = field(default_factory=dict)  # sha256 -> task
    acked: list[tuple[str, str]] = field(default_factory=list)  # (task, sha256), as the agent recorded it
    settled: list[Settlement] = field(default_factory=list)
    outcomes: list[tuple[str, str]] = field(default_factory=list)  # (task, outcome), as the agent recorded it
    disks_lost: int = 0

    def __post_init__(self) -> None:
        self.made, self.sent, self.lost = np.zeros(self.n), np.zeros(self.n), np.zeros(self.n)
        self.lost_variate = np.zeros(self.n)

    def committed(self, task: str, sha256: str, delta: Vector, payload: bytes) -> None:
        self.made += delta
        self.contents[sha256] = content_of(payload, self.n)
        self.changes[sha256] = content_of(payload, self.n, 1)
        self.tasks[sha256] = task

    def was_settled(self, task: str, sha256: str, give_back: bool) -> None:
        self.settled.append(Settlement(task, sha256, give_back))
        if not give_back:
            self.sent += self.contents[sha256]

    def disk_was_lost(self, spool: Spool) -> None:
        self.lost += held(spool, self.n)
        self.lost_variate += variate_of(spool, self.n)
        self.lost_items += [(item.task, item.sha256) for item in spool.restored().items]
        self.disks_lost += 1


def held(spool: Spool, n: int) -> Vector:
    """Residual and unsettled content on a device's disk."""
    total = spool.residual(n).astype(np.float64)
    for item in spool.restored().items:
        total += content_of(spool.payload(item.task), n)
    return total


class BookedSpool(Spool):
    """A spool that tells the books. What a power cut interrupts is booked when the next life sees what became of it."""

    books: AgentBooks
    under_way: tuple[str, str, str, bool] | None = None  # (what, task, sha256, give_back)

    def keep_books(self, books: AgentBooks) -> None:
        self.books = books
        self._deltas: dict[str, Vector] = {}

    def note_delta(self, task: str, delta: NDArray[np.float32]) -> None:
        self._deltas[task] = delta.astype(np.float64)

    def commit(self, task: str) -> None:
        sha256 = self._prepared[task].item.sha256
        payload = self._disk.read(self._prepared[task].item.file, 1 << 20)
        self.books_pending = (self._deltas[task], payload)
        self.under_way = ("commit", task, sha256, False)
        try:
            super().commit(task)
        except SpoolError:
            self.under_way = None
            raise
        self.under_way = None
        self.books.committed(task, sha256, *self.books_pending)

    def settle(self, task: str, give_back: bool, merged: bool = False) -> float:
        sha256 = self._item(task).sha256
        self.under_way = ("settle", task, sha256, give_back)
        try:
            norm = super().settle(task, give_back, merged)
        except SpoolError:
            self.under_way = None
            raise
        self.under_way = None
        self.books.was_settled(task, sha256, give_back)
        return norm

    def reconcile(self, before: BookedSpool) -> None:
        """Book what the life before was interrupted in, if it came to pass."""
        if before.under_way is None:
            return
        what, task, sha256, give_back = before.under_way
        there = any(item.sha256 == sha256 and item.task == task for item in self.restored().items)
        if what == "commit" and there:
            self.books.committed(task, sha256, *before.books_pending)
        elif what == "settle" and not there:
            self.books.was_settled(task, sha256, give_back)
