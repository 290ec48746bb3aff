"""The agent's own history, on a disk that may be full: lines may be lost then, the agent is not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

log = logging.getLogger("edge_agent")

COMPLAIN_S = 60.0  # a disk stays full for long; once a minute says it


class Writer(Protocol):
    """`history.writer.HistoryWriter`."""

    def append(self, event: str, *, durable: bool = False, **fields: Any) -> None: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...


class Diary:
    """Passes on what the disk takes, and counts what it does not."""

    def __init__(self, writer: Writer, clock: Callable[[], float] = time.monotonic) -> None:
        self._writer, self._clock = writer, clock
        self._complained = float("-inf")
        self.refused = 0

    def append(self, event: str, *, durable: bool = False, **fields: Any) -> None:
        self._try(lambda: self._writer.append(event, durable=durable, **fields))

    def sync(self) -> None:
        self._try(self._writer.sync)

    def close(self) -> None:
        self._try(self._writer.close)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self.refused += 1
            if self._clock() - self._complained >= COMPLAIN_S:
                self._complained = self._clock()
                log.error("the history cannot be written: %s; free some space", error)
