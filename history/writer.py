"""Append events to a producer's own file. Floor 2: used by coordinator, agents, hostd and runner alike."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from history.events import Event

# One event is a few hundred bytes; the largest is a version with its updates, 160 bytes each: 1,600 of them.
EVENT_BYTES_MAX = 262_144
BUFFER_BYTES = 131_072  # some hundred lines: a busy turn is one write, not one for every forty lines


class HistoryWriter:
    """One producer's history file. `append` buffers in the file object, `sync` makes it durable.

    Services append while they decide and call `sync` once per turn of their loop, so one fsync covers many events;
    `append(..., durable=True)` syncs at once, for what another producer may rely on. Safe to call from any thread.
    Raises OSError where the disk takes no more, unless it was told to `let_lines_go`.
    """

    def __init__(
        self,
        path: str | Path,
        node: str,
        boot: str | None = None,
        *,
        mono: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.path = Path(path)
        self.node = node
        self.boot = boot or secrets.token_hex(6)
        self._mono, self._wall = mono, wall
        self._seq = 0
        self._dirty = self._lenient = False
        self.refused = 0  # what the disk did not take since `let_lines_go`
        self._lock = threading.Lock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab", BUFFER_BYTES)  # noqa: SIM115 - lives as long as the producer
        # A line cut short by a kill must not swallow the first line of this boot.
        if self._file.tell() > 0:
            self._file.write(b"\n")

    def let_lines_go(self) -> None:
        """From here on a full disk costs lines: whoever takes back what it has changed must get to its end."""
        self._lenient = True

    def append(self, event: str, *, durable: bool = False, **fields: Any) -> None:
        with self._lock:
            record = Event(
                node=self.node,
                boot=self.boot,
                seq=self._seq,
                mono_s=round(self._mono(), 6),
                wall_s=round(self._wall(), 6),
                event=event,
                fields=fields,
            )
            line = msgspec.json.encode(record)
            if len(line) > EVENT_BYTES_MAX:
                line = msgspec.json.encode(msgspec.structs.replace(record, fields={"truncated": len(line)}))
            try:
                self._file.write(line + b"\n")
            except OSError:
                self._forgive()
            self._seq += 1
            self._dirty = True
        if durable:
            self.sync()

    def sync(self) -> None:
        with self._lock:
            if not self._dirty or self._file.closed:
                return
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._dirty = False
            except OSError:
                self._forgive()

    def close(self) -> None:
        self.sync()
        with self._lock:
            try:
                self._file.close()
            except OSError:
                self._forgive()

    def _forgive(self) -> None:
        """What is being handled is counted, or raised again."""
        if not self._lenient:
            raise
        self.refused += 1
