"""When bytes leave a link: pure arithmetic of one direction, for the relay.

One clock per link and direction, shared by all its connections: bandwidth belongs to the link, not to a connection.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from topology.link_random import JITTER
from topology.plan import Shape

SEGMENT_BYTES = 1448  # payload of a full TCP segment with timestamps
SEGMENT_HEADER_BYTES = 66  # Ethernet 14, IPv4 20, TCP 20 + 12 of options: rates count frames, as TBF does
QUEUE_S = 0.2


@dataclass(frozen=True)
class Passage:
    """A chunk leaves the shaper at `left_s` and arrives at `due_s`."""

    left_s: float
    due_s: float


class RateClock:
    """`take` books a chunk; chunks leave in the order they were booked and arrive in that order."""

    def __init__(self, shape: Shape, seed: str) -> None:
        self.shape = shape
        self._free_s = 0.0  # when the shaper has sent all it was given
        self._last_due_s = 0.0
        self._deviations = random.Random(f"{seed}/jitter")
        self.bytes = 0

    @property
    def queue_s(self) -> float:
        """How long the queue before the shaper is allowed to be."""
        shape = self.shape
        if shape.rate_bit_s is None or shape.queue_bytes is None:
            return QUEUE_S
        return shape.queue_bytes * 8 / shape.rate_bit_s

    def chunk_bytes(self) -> int:
        """How much to take at once: about 20 ms of the rate, so that connections share the link smoothly."""
        if self.shape.rate_bit_s is None:
            return 65_536
        return min(65_536, max(SEGMENT_BYTES, int(self.shape.rate_bit_s * 0.02 / 8)))

    def wait_s(self, now: float) -> float:
        """How long the queue is over its bound: read nothing more from anybody until then."""
        return max(0.0, self._free_s - now - self.queue_s)

    def take(self, payload_bytes: int, now: float) -> Passage:
        """Book a chunk that has just come in."""
        self.bytes += payload_bytes
        segments = -(-payload_bytes // SEGMENT_BYTES)
        wire = payload_bytes + segments * SEGMENT_HEADER_BYTES
        rate = self.shape.rate_bit_s
        left = now if rate is None else max(now, self._free_s) + wire * 8 / rate
        self._free_s = left
        delay = self.shape.delay_s
        if self.shape.jitter_s > 0:
            deviation = JITTER[self.shape.jitter_kind](self._deviations)
            delay = max(0.0, delay + self.shape.jitter_s * deviation)
        self._last_due_s = max(self._last_due_s, left + delay)
        return Passage(left, self._last_due_s)
