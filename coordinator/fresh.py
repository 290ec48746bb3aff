"""Updates as they were just journalled: their version, which mostly comes soon, need not read them from the file."""

from __future__ import annotations

from typing import NamedTuple

# A version of 400 small updates; of large ones, where reading costs least, the newest, or none.
FRESH_BYTES_MAX = 8 << 20


class Fresh(NamedTuple):
    """`payload`: the bytes whose sha256 this is, as `coordinator.journal.aligned` has them."""

    sha256: str
    payload: memoryview
    report: str


class FreshUpdates:
    """By task. Beyond the limit the oldest go: the file has them."""

    def __init__(self, bytes_max: int = FRESH_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._updates: dict[str, Fresh] = {}

    def put(self, task: str, fresh: Fresh) -> None:
        self.take(task, fresh.sha256)
        self._updates[task] = fresh
        self._bytes += len(fresh.payload)
        while self._bytes > self._bytes_max:
            oldest = next(iter(self._updates))
            self._bytes -= len(self._updates.pop(oldest).payload)

    def take(self, task: str, sha256: str) -> Fresh | None:
        """Once; None where it is gone, or is not the content that is asked for."""
        found = self._updates.pop(task, None)
        if found is None:
            return None
        self._bytes -= len(found.payload)
        return found if found.sha256 == sha256 else None
