"""Recorded links: Mahimahi's packet-delivery traces and a simple CSV, as steps of a link's numbers.

**Mahimahi** (mm-link(1)): each line is a time in milliseconds at which the link can deliver one packet of 1500
bytes (1504 with its tunnel's header); equal times are several packets; the file repeats from its last time on. A
shaper of the kernel has a rate, no single opportunities: they are counted per interval, so what is kept is the rate
over intervals, not the pattern within one.

**CSV**: a header `at_s` and any of `rate_bit_s`, `delay_s`, `jitter_s`, `loss`; a row holds until the next one.

A trace has at most 5,000 steps, and no two closer than a quarter of a second: hostd changes the live link at each.
"""

from __future__ import annotations

import csv
import io
from typing import Any

from topology.plan import Step, Steps

FRAME_BYTES = 1514  # of a packet of 1500 bytes: rates count frames
BYTES_MAX = 64 << 20  # Mahimahi's own traces have up to 2 MB; an hour at 100 Mbit/s has 180 MB and can be cut
STEPS_MAX = 5_000
STEP_S_MIN = 0.25
# An interval without any opportunity is an outage. A shaper's rate cannot be zero, and one so slow that a frame takes
# longer than an interval would sleep past the end of the outage.
OUTAGE_BIT_S = 16_000
COLUMNS = ("rate_bit_s", "delay_s", "jitter_s", "loss")


class TraceError(ValueError):
    """The text says what is wrong, and in which line."""


def mahimahi(text: str, interval_s: float) -> Steps:
    """Rate per interval. The last, partial interval is left out unless it is the only one."""
    times_ms = _times(text)
    last_ms = times_ms[-1]
    if last_ms <= 0:
        raise TraceError("the last time has to be above 0: the trace repeats from there on")
    count = max(1, int(last_ms / 1000 / interval_s + 1e-9))
    length_s = last_ms / 1000 if count == 1 else interval_s
    if count > STEPS_MAX:
        raise TraceError(f"{count} intervals, at most {STEPS_MAX} are allowed: use longer ones")
    packets = [0] * count
    for time_ms in times_ms:
        # Time 0 and the last time are the same moment of a repeating trace; opportunities at t belong to (t-1, t].
        index = max(0, -(-time_ms // round(length_s * 1000)) - 1)
        if index < count:
            packets[index] += 1
    rates = [max(OUTAGE_BIT_S, round(n * FRAME_BYTES * 8 / length_s)) for n in packets]
    steps = tuple(Step(at_s=round(i * length_s, 6), rate_bit_s=rate) for i, rate in enumerate(rates))
    return Steps(steps=steps, repeat_s=round(count * length_s, 6))


def _times(text: str) -> list[int]:
    times: list[int] = []
    for number, line in enumerate(text.splitlines(), start=1):
        word = line.strip()
        if not word:
            continue
        if not (word.isascii() and word.isdigit() and len(word) <= 12):
            raise TraceError(f"line {number}: {word[:40]!r} is not a time in whole milliseconds")
        times.append(int(word))
        if len(times) > 1 and times[-1] < times[-2]:
            raise TraceError(f"line {number}: time {times[-1]} after {times[-2]}: times must not go back")
    if not times:
        raise TraceError("no delivery time in it")
    return times


def from_csv(text: str, interval_s: float) -> Steps:
    """Rows as they are; `interval_s` is how long the last one holds before the trace begins again."""
    try:
        return _rows(csv.DictReader(io.StringIO(text)), interval_s)
    except csv.Error as error:
        raise TraceError(f"not CSV: {error}") from None


def _rows(reader: csv.DictReader[str], interval_s: float) -> Steps:
    columns = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    if "at_s" not in columns or not set(columns) & set(COLUMNS):
        raise TraceError(f"the header has to have at_s and any of {', '.join(COLUMNS)}")
    if twice := [name for place, name in enumerate(columns) if name in columns[:place]]:
        raise TraceError(f"the column {twice[0]!r} is there twice")
    unknown = sorted(set(columns) - {"at_s", *COLUMNS})
    if unknown:
        raise TraceError(f"unknown column {unknown[0]!r}; allowed: at_s, {', '.join(COLUMNS)}")
    steps: list[Step] = []
    for row in reader:
        steps.append(_step(row, reader.line_num))
        if len(steps) > STEPS_MAX:
            raise TraceError(f"more than {STEPS_MAX} rows")
        if len(steps) > 1 and steps[-1].at_s - steps[-2].at_s < STEP_S_MIN:
            raise TraceError(f"line {reader.line_num}: less than {STEP_S_MIN:g} s after the row before")
    if not steps:
        raise TraceError("no row in it")
    return Steps(steps=tuple(steps), repeat_s=round(steps[-1].at_s + interval_s, 6))


def _step(row: dict[str, Any], line: int) -> Step:
    if None in row or None in row.values():
        raise TraceError(f"line {line}: not as many cells as the header has")
    numbers: dict[str, float] = {}
    for name, text in row.items():
        if not text.strip():
            continue
        try:
            value = float(text)
        except ValueError:
            raise TraceError(f"line {line}: {name} {text[:40]!r} is no number") from None
        low, high = _ALLOWED[name]
        if not low <= value <= high:
            raise TraceError(f"line {line}: {name} is {value:g}, {low:g} to {high:g} is allowed")
        numbers[name] = value
    if "at_s" not in numbers:
        raise TraceError(f"line {line}: no at_s")
    rate = numbers.pop("rate_bit_s", None)
    return Step(rate_bit_s=None if rate is None else round(rate), **numbers)


_ALLOWED: dict[str, tuple[float, float]] = {
    "at_s": (0.0, 86_400.0),
    "rate_bit_s": (OUTAGE_BIT_S, 1e11),
    "delay_s": (0.0, 60.0),
    "jitter_s": (0.0, 60.0),
    "loss": (0.0, 0.99),
}
FORMATS = {"mahimahi": mahimahi, "csv": from_csv}
