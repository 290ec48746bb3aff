"""The service's history: a full disk delays lines, it never ends a run."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from history.writer import HistoryWriter

HELD_MAX = 10_000  # lines kept while the disk is full: minutes of a large run, a few megabytes


class Chronicle:
    """`tap` is told every event, whether the disk takes it or not."""

    def __init__(
        self,
        writer: HistoryWriter,
        tap: Callable[[str, dict[str, Any]], object] = lambda _event, _fields: None,
    ) -> None:
        self._writer, self._tap = writer, tap
        self._held: deque[tuple[str, dict[str, Any]]] = deque()
        self.lost = 0

    def append(self, event: str, fields: dict[str, Any]) -> None:
        self._tap(event, fields)
        if self._held or not self._write(event, fields):
            self._hold(event, fields)

    def lapse(self, what: str, requested: str, effective: str, detail: str = "") -> None:
        fields = {"what": what, "node": "coordinator", "requested": requested, "effective": effective}
        self.append("lapse", {**fields, "detail": detail})
        # Said aloud as well: when the disk is full the log is the only witness.
        print(
            f"coordinator: lapse: {what}: {requested}, but {effective}. {detail}", file=sys.stderr, flush=True
        )

    def sync(self) -> None:
        """Make durable what can be; what was held back goes first."""
        try:
            while self._held and self._write(*self._held[0]):
                self._held.popleft()
            self._writer.sync()
        except OSError:
            return  # it stays in the file object's buffer and is tried again with the next sync
        if self.lost and not self._held:
            lost, self.lost = self.lost, 0
            self.lapse("history", "every event", f"{lost} events lost", "the disk was full for too long")

    def _write(self, event: str, fields: dict[str, Any]) -> bool:
        try:
            self._writer.append(event, **fields)
        except OSError:
            return False
        return True

    def _hold(self, event: str, fields: dict[str, Any]) -> None:
        if len(self._held) >= HELD_MAX:
            self.lost += 1
            return
        self._held.append((event, fields))

    def close(self) -> None:
        self.sync()
        try:
            self._writer.close()
        except OSError as error:
            print(f"coordinator: the end of the history could not be written: {error}", file=sys.stderr)
