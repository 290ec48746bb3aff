"""The packets of one direction on their way: pure, no clock, no socket.

A line is a FIFO with due times that never go backwards, so it never reorders: with jitter a packet is due at
max(due of the one before, arrival + delay + deviation). One batch verdict on the last due packet therefore
lets all due ones go, with jitter as without.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

TICK_S_MIN = 0.00025


def tick_s(shortest_delay_s: float) -> float:
    """A tick of dense traffic: up to 1 ms within a quarter of the shortest delay, up to 2 ms within a tenth of it.

    A packet is at most half a tick early or late, so at most an eighth of its delay, a twentieth from 20 ms on.
    """
    return max(TICK_S_MIN, min(0.001, shortest_delay_s / 4), min(0.002, shortest_delay_s / 10))


@dataclass(frozen=True)
class LineShape:
    """Delay and standard deviation of a normal distribution in seconds, probability of loss."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0


@dataclass
class LineCounters:
    packets: int = 0
    dropped: int = 0
    released: int = 0
    late_s_sum: float = 0.0
    late_s_max: float = 0.0


@dataclass
class DelayLine:
    """`seed` fixes which packets (by their order of arrival) are lost and every deviation.

    Loss and jitter draw from two generators, so that the same seed loses the same packets whatever the
    jitter.
    """

    shape: LineShape
    seed: str
    counters: LineCounters = field(default_factory=LineCounters)

    def __post_init__(self) -> None:
        self._losses = random.Random(f"{self.seed}/loss")
        self._deviations = random.Random(f"{self.seed}/jitter")
        self._held: deque[tuple[float, int]] = deque()
        self._last_due_s = 0.0

    @property
    def next_due_s(self) -> float | None:
        return self._held[0][0] if self._held else None

    @property
    def held(self) -> int:
        return len(self._held)

    def arrive(self, packet: int, now: float) -> bool:
        """Take a packet (its id ascends). False: it is lost, drop it now."""
        self.counters.packets += 1
        shape = self.shape
        if shape.loss > 0 and self._losses.random() < shape.loss:
            self.counters.dropped += 1
            return False
        delay = shape.delay_s
        if shape.jitter_s > 0:
            delay = max(0.0, delay + self._deviations.gauss(0.0, shape.jitter_s))
        due = now + delay
        if due < self._last_due_s:
            due = self._last_due_s
        self._last_due_s = due
        self._held.append((due, packet))
        return True

    def release(self, now: float) -> int | None:
        """Id of the last packet due by now (all before it are due too), or None."""
        held, counters, last = self._held, self.counters, None
        while held and held[0][0] <= now:
            due, last = held.popleft()
            late = now - due
            counters.released += 1
            counters.late_s_sum += late
            if late > counters.late_s_max:
                counters.late_s_max = late
        return last

    def change(self, shape: LineShape) -> None:
        """Packets under way keep their due times; later ones get the new shape, and still never overtake
        them.
        """
        self.shape = shape
