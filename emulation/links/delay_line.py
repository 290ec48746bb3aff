"""The packets of one direction on their way: pure, no clock, no socket.

A line is a FIFO with due times that never go backwards, so jitter never reorders: a packet is due at
max(due of the one before, arrival + delay + deviation). One batch verdict on the last due packet therefore
lets all due ones go, with jitter as without. Only the packets that `reorder` picks skip the line.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from msgspec import Struct

from topology.link_random import JITTER, Losses
from topology.plan import Bursts, JitterKind, Shape

TICK_S_MIN = 0.00025
# What `arrive` decides: lose it, hold it until it is due, or let it overtake; and whether a bit is to be flipped.
DROP, HOLD, OVERTAKE = 0, 1, 2
CORRUPT = 4


def tick_s(shortest_delay_s: float) -> float:
    """A tick of dense traffic: up to 1 ms within a quarter of the shortest delay, up to 2 ms within a tenth of it.

    A packet is at most half a tick early or late, so at most an eighth of its delay, a twentieth from 20 ms on.
    """
    return max(TICK_S_MIN, min(0.001, shortest_delay_s / 4), min(0.002, shortest_delay_s / 10))


class LineShape(Struct, frozen=True, kw_only=True):
    """What of a shape is done to single packets; fields as in `topology.plan.Shape`."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    jitter_kind: JitterKind = "normal"
    loss: float = 0.0
    bursts: Bursts | None = None
    reorder: float = 0.0
    corrupt: float = 0.0

    @classmethod
    def of(cls, shape: Shape) -> LineShape:
        return cls(
            delay_s=shape.delay_s,
            jitter_s=shape.jitter_s,
            jitter_kind=shape.jitter_kind if shape.jitter_s > 0 else "normal",
            loss=shape.loss,
            bursts=shape.bursts,
            reorder=shape.reorder,
            corrupt=shape.corrupt,
        )


@dataclass
class LineCounters:
    packets: int = 0
    dropped: int = 0
    overtook: int = 0
    corrupted: int = 0
    released: int = 0
    late_s_max: float = 0.0


@dataclass
class DelayLine:
    """`seed` fixes which packets (by their order of arrival) are lost, overtake or are corrupted, and every deviation.

    Each draws from a generator of its own, so that the same seed loses the same packets whatever the jitter.
    """

    shape: LineShape
    seed: str
    counters: LineCounters = field(default_factory=LineCounters)

    def __post_init__(self) -> None:
        self._losses = Losses(self.seed)
        self._deviations = random.Random(f"{self.seed}/jitter")
        self._overtakers = random.Random(f"{self.seed}/reorder")
        self._corruptions = random.Random(f"{self.seed}/corrupt")
        self._held: deque[tuple[float, int]] = deque()
        self._last_due_s = 0.0
        self.change(self.shape)

    @property
    def next_due_s(self) -> float | None:
        return self._held[0][0] if self._held else None

    @property
    def held(self) -> int:
        return len(self._held)

    def arrive(self, packet: int, now: float) -> int:
        """Take a packet (its id ascends): DROP, HOLD or OVERTAKE, the last two perhaps with CORRUPT."""
        self.counters.packets += 1
        shape, decision = self.shape, HOLD
        if self._loses and self._losses.lost(shape.loss, shape.bursts):
            self.counters.dropped += 1
            return DROP
        if self._rare:
            if shape.reorder > 0 and self._overtakers.random() < shape.reorder:
                self.counters.overtook += 1
                decision = OVERTAKE
            if shape.corrupt > 0 and self._corruptions.random() < shape.corrupt:
                self.counters.corrupted += 1
                if decision == OVERTAKE:
                    return OVERTAKE | CORRUPT
                decision = HOLD | CORRUPT
            if decision == OVERTAKE:
                return OVERTAKE
        delay = shape.delay_s
        if shape.jitter_s > 0:
            delay = max(0.0, delay + shape.jitter_s * self._deviation(self._deviations))
        due = now + delay
        if due < self._last_due_s:
            due = self._last_due_s
        self._last_due_s = due
        self._held.append((due, packet))
        return decision

    def release(self, now: float) -> int | None:
        """Id of the last packet due by now (all before it are due too), or None."""
        held, counters, last = self._held, self.counters, None
        while held and held[0][0] <= now:
            due, last = held.popleft()
            late = now - due
            counters.released += 1
            if late > counters.late_s_max:
                counters.late_s_max = late
        return last

    def change(self, shape: LineShape) -> None:
        """Packets under way keep their due times; later ones get the new shape, and still never overtake
        them.
        """
        self.shape = shape
        self._loses = shape.loss > 0 or shape.bursts is not None
        self._rare = shape.reorder > 0 or shape.corrupt > 0
        self._deviation = JITTER[shape.jitter_kind]


class BitFlipper:
    """Flips one bit behind the IPv4 header of a packet: the addresses stay, the checksum of UDP or TCP finds it."""

    def __init__(self, seed: str) -> None:
        self._rng = random.Random(f"{seed}/bits")

    def flip(self, packet: bytes) -> bytes:
        if len(packet) < 20:
            return packet
        header = (packet[0] & 0x0F) * 4
        if not 20 <= header < len(packet):
            return packet
        changed = bytearray(packet)
        changed[self._rng.randrange(header, len(packet))] ^= 1 << self._rng.randrange(8)
        return bytes(changed)
