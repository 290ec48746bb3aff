"""Follow another producer's history file: whole lines only, what was read is never read again."""

from __future__ import annotations

from pathlib import Path

import msgspec

from history.events import Event

READ_BYTES = 1 << 20  # per turn; the coordinator writes some kB a second
LINE_BYTES_MAX = 1 << 19  # twice history.writer.EVENT_BYTES_MAX: a longer line is not ours

_decoder = msgspec.json.Decoder(Event)


class Tail:
    """`read` returns the events that were completed since the last call; the file need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._rest = b""

    def read(self) -> list[Event]:
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                data = file.read(READ_BYTES)
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            self._rest = b""
        return [event for line in lines if (event := _decode(line)) is not None]


def _decode(line: bytes) -> Event | None:
    """A line that is no event (cut short by a kill) is skipped, as every reader of the history does."""
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
