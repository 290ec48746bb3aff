"""When a device is there: windows of time, from a model of the day or from a trace. Pure but for reading the file.

A trace is CSV, `seconds,available` for all devices or `seconds,available,device` for each: from that moment on the
device is there (1) or not (0), until its next line; before its first line it is there. The format holds what FedScale's
and FLASH's availability traces say (`active`/`inactive` times), one line per change.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from topology.files import read_text_file
from topology.plan.power import Window

TRACE_BYTES_MAX = 8 << 20  # 200,000 lines; a week of a large fleet
FOREVER_S = 1e9  # the end of a window that has none
EVERYBODY = "*"


class TraceError(ValueError):
    """The trace cannot be used; the text names file, line and what is wanted."""


@dataclass(frozen=True)
class Trace:
    """`changes[device]`: (second, available), in order of time; EVERYBODY where lines name no device."""

    changes: dict[str, tuple[tuple[float, bool], ...]]

    def windows(self, device: str) -> tuple[Window, ...]:
        """When `device` is there. One that the trace does not name is always there."""
        changes = self.changes.get(device, self.changes.get(EVERYBODY, ()))
        found: list[Window] = []
        since: float | None = 0.0
        for at, available in changes:
            if available and since is None:
                since = at
            elif not available and since is not None:
                if at > since:
                    found.append((since, at))
                since = None
        if since is not None:
            found.append((since, FOREVER_S))
        return tuple(found)


def read_trace(path: Path) -> Trace:
    """Raises TraceError."""
    try:
        text = read_text_file(path, TRACE_BYTES_MAX)
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path} cannot be read: {_why(error)}") from None
    changes: dict[str, list[tuple[float, bool]]] = {}
    for number, row in enumerate(_rows(path, text), start=1):
        if not row or row[0].lstrip().startswith("#") or (number == 1 and row[0].strip() == "seconds"):
            continue
        device, at, available = _row(path, number, row)
        earlier = changes.setdefault(device, [])
        if earlier and at < earlier[-1][0]:
            raise TraceError(f"{path}:{number}: {at:g} s comes after {earlier[-1][0]:g} s; times ascend")
        earlier.append((at, available))
    if not changes:
        raise TraceError(f"{path} has no lines; write `seconds,available` or `seconds,available,device`")
    return Trace({device: tuple(rows) for device, rows in changes.items()})


def _why(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _rows(path: Path, text: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(text.splitlines())
    except csv.Error as error:
        raise TraceError(f"{path} is no CSV: {error}") from None


def _row(path: Path, number: int, row: list[str]) -> tuple[str, float, bool]:
    cells = [cell.strip() for cell in row]
    try:
        at = float(cells[0])
        available = {"0": False, "1": True}[cells[1]]
        if not 0 <= at <= FOREVER_S:
            raise ValueError
    except (IndexError, KeyError, ValueError):
        wanted = "seconds,available or seconds,available,device, with available 0 or 1"
        raise TraceError(f"{path}:{number}: {','.join(row)[:80]!r} is not a line of {wanted}") from None
    return (cells[2] if len(cells) > 2 and cells[2] else EVERYBODY), at, available


def diurnal(day_s: float, share: float, spread: float, rng: random.Random) -> tuple[Window, ...]:
    """One window of `share` of the day, its middle normally distributed around noon; it may pass midnight."""
    if share >= 1.0:
        return ((0.0, day_s),)
    begin = (day_s / 2 + rng.gauss(0.0, spread * day_s) - share * day_s / 2) % day_s
    end = begin + share * day_s
    if end <= day_s:
        return ((begin, end),)
    return ((0.0, end - day_s), (begin, day_s))


def within(windows: tuple[Window, ...], every_s: float | None, now_s: float) -> bool:
    """Whether a moment lies in one of the windows, which repeat every `every_s`."""
    moment = now_s % every_s if every_s else now_s
    return any(begin <= moment < end for begin, end in windows)
