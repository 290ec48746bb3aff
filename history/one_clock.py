"""One time for a producer's boots, whatever its clocks did between them.

CLOCK_MONOTONIC begins at 0 with every boot of the machine. A run that goes on after one has boots that by their stamps
came before those that were before them: the merge would tell the story in the wrong order, and a round would close
before it was opened. The order of a file is never in doubt, so such a boot is moved behind the one before it: as far as
the wall clock says, which sees the time that the machine was off. If that one went backwards too, it follows at once:
each producer's own order holds, the one between producers of before and after is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from history.events import Event

STAMP_S = 1e-6  # stamps are rounded to it: two that are this far apart keep their order


def on_one_clock(events: Iterable[Event]) -> Iterator[Event]:
    """Events of one file, in its order. Those of a boot that begins after the one before it ended stay as they are."""
    last: Event | None = None
    boot, shift_s = "", 0.0
    for event in events:
        if last is not None and event.boot != boot:
            shift_s = _shift_s(last, event)
        boot = event.boot
        last = event if not shift_s else msgspec.structs.replace(event, mono_s=event.mono_s + shift_s)
        yield last


def _shift_s(last: Event, first: Event) -> float:
    """How much later than its stamp says a boot began; 0 where the stamps are in order."""
    if first.mono_s >= last.mono_s:
        return 0.0
    passed_s = max(STAMP_S, first.wall_s - last.wall_s)
    return last.mono_s - first.mono_s + passed_s
