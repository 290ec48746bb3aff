"""Files that count or do not: the change from one set of them to the next, in one step.

One small file, the *ledger*, names every other file that counts. A change writes its new files, makes them durable,
replaces the ledger, makes that durable, and only then removes what no ledger names. So a kill at any instruction
leaves the old state or the new one, and payload and residual of an update change hands in the same instant: content
is in the residual or in a payload, never in both and never in neither.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec

from edge_agent import vectors
from edge_agent.disk import Disk
from edge_agent.ledger import DiskBroken, Ledger, SpoolError, files, generation
from edge_agent.opening import LEDGER, opened

KINDS = (*vectors.KINDS, "update-", "model-", "graph-", "control-")


class Shelf:
    """A device's folder. Every file's name holds a number that no other has had."""

    def __init__(self, disk: Disk, run: str) -> None:
        self._disk = disk
        self._lock = threading.RLock()
        self.problems: list[str] = []  # what was found damaged at the start, for the log
        self._ledger = opened(disk, run, self.problems)
        self._generation = max([self._ledger.generation, *map(generation, disk.names())])
        self._sweep()

    def _prepared_files(self) -> set[str]:
        """Written already, for a ledger to come."""
        return set()

    def _name(self, kind: str) -> str:
        with self._lock:
            self._generation += 1
            return f"{kind}{self._generation}.{'f32' if kind in vectors.KINDS else 'bin'}"

    def _read(self, name: str, bytes_max: int, what: str) -> bytes:
        try:
            return self._disk.read(name, bytes_max)
        except OSError as error:
            raise SpoolError(f"cannot read {what}: {error}") from error

    def _write(self, name: str, parts: Iterator[bytes | memoryview]) -> None:
        try:
            self._disk.write(name, parts)
        except OSError as error:
            raise SpoolError(f"cannot write {name}: {error}") from error

    def _replace(self, ledger: Ledger) -> None:
        """The one step that counts. What it names is durable before, and what it no longer names goes after."""
        old = self._ledger
        ledger = msgspec.structs.replace(ledger, generation=self._generation)
        fresh = set(files(ledger)) - set(files(old)) - self._prepared_files()
        try:
            self._disk.sync()
            self._disk.write(LEDGER, [msgspec.msgpack.encode(ledger)])
        except OSError as error:
            self._remove(fresh)
            raise SpoolError(f"cannot write the ledger: {error}") from error
        try:
            self._disk.sync()
        except OSError as error:
            self._fall_back(old)
            self._remove(fresh)
            raise SpoolError(f"cannot make the ledger durable: {error}") from error
        self._ledger = ledger
        self._remove(set(files(old)) - set(files(ledger)))

    def _fall_back(self, old: Ledger) -> None:
        """The new ledger may or may not be in place: put the old one back, or stop before the two disagree."""
        try:
            self._disk.write(LEDGER, [msgspec.msgpack.encode(old)])
            self._disk.sync()
        except OSError as error:
            raise DiskBroken(f"neither the new nor the old ledger can be written: {error}") from error

    def _remove(self, names: set[str]) -> None:
        for name in sorted(names):
            self._disk.remove(name)

    def _sweep(self) -> None:
        """At the start, remove what the ledger does not name: the rest of whatever a kill interrupted."""
        named = {LEDGER, *files(self._ledger)}
        for name in self._disk.names():
            if name not in named and name.startswith((*KINDS, LEDGER)):
                self._disk.remove(name)
