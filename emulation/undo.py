"""What hostd has changed and not yet taken back, on disk before each change.

A line `begin` is fsynced before something is changed, a line `done` after it was taken back. What has
begun and is not done when hostd starts was left by one that died; it is healed then. The file is the
lease: it belongs to the run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

ENTRIES_MAX = 10_000  # changes of one run; a few per device and fault


class UndoFile:
    """One process writes it. `open_entries` are the changes in force, oldest first."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.open_entries: dict[int, dict[str, Any]] = {}
        self._last = -1
        if path.exists():
            self._load(path.read_bytes())
        self._file = open(path, "ab")  # noqa: SIM115 - lives as long as hostd
        if self._file.tell() > 0:
            self._file.write(b"\n")  # a line cut short must not swallow the next one

    def begin(self, kind: str, fields: Mapping[str, Any]) -> int:
        """Durable when it returns; the number goes to `done`."""
        if len(self.open_entries) >= ENTRIES_MAX:
            raise RuntimeError(f"more than {ENTRIES_MAX} changes in force: something is not taken back")
        self._last += 1
        entry = {"kind": kind, **fields}
        self._write({"op": "begin", "number": self._last, **entry})
        self.open_entries[self._last] = entry
        return self._last

    def done(self, number: int) -> None:
        """What a full disk does not take is healed once more by the next hostd: that does no harm, raising would."""
        if self.open_entries.pop(number, None) is not None:
            with suppress(OSError):
                self._write({"op": "done", "number": number})

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(msgspec.json.encode(record) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _load(self, content: bytes) -> None:
        for line in content.splitlines():
            try:
                record = msgspec.json.decode(line)
                number = int(record["number"])
            except (msgspec.DecodeError, KeyError, TypeError, ValueError):
                continue  # the last line of a hostd that was killed while writing: its change was never made
            self._last = max(self._last, number)
            if record.pop("op") == "begin":
                self.open_entries[number] = {key: value for key, value in record.items() if key != "number"}
            else:
                self.open_entries.pop(number, None)
