"""Sending one update: which chunks go next, bounded in bytes that the broker has not confirmed. Pure."""

from __future__ import annotations

import hashlib

from wire.chunks import HEADER_BYTES, chunk_count, cut

# A window of 64 kB chunks on a LAN would otherwise be hundreds of messages, ahead of every control message.
CHUNKS_IN_FLIGHT_MAX = 16
UNKNOWN_UPLINK_BIT_S = 1_000_000  # cautious: half of the slowest link that is sold as broadband


def window_bytes(granted: int, uplink_bit_s: int) -> int:
    """At most one second of the link (DESIGN.md), whatever the grant allows."""
    return min(granted, (uplink_bit_s or UNKNOWN_UPLINK_BIT_S) // 8)


class Upload:
    """Chunks in order, each again until confirmed. One chunk is always allowed, however small the window is."""

    def __init__(
        self, task: str, payload: bytes, chunk_bytes: int, window: int, missing: tuple[int, ...] | None
    ) -> None:
        self.task = task
        self.sha256 = hashlib.sha256(payload).hexdigest()
        self._digest = bytes.fromhex(self.sha256)
        self._payload, self._chunk_bytes, self._window = payload, chunk_bytes, window
        chunks = chunk_count(len(payload), chunk_bytes)
        self._left = list(range(chunks) if missing is None else missing)[::-1]
        self._in_flight: dict[int, int] = {}
        self.total = len(self._left)
        self.resent = (
            self.total if missing is not None else 0
        )  # a grant that names chunks asks for them again
        self.sent_bytes = 0

    def next_chunk(self) -> tuple[int, bytes] | None:
        """The next chunk to hand to the transport, or None while the window is full or nothing is left."""
        if not self._left or len(self._in_flight) >= CHUNKS_IN_FLIGHT_MAX:
            return None
        message = cut(self._payload, self._chunk_bytes, self._left[-1], self._digest)
        if self._in_flight and sum(self._in_flight.values()) + len(message) > self._window:
            return None
        index = self._left.pop()
        self._in_flight[index] = len(message)
        self.sent_bytes += len(message)
        return index, message

    def confirmed(self, index: int) -> None:
        """The broker has it; a confirmation of something else is no news."""
        self._in_flight.pop(index, None)

    @property
    def done(self) -> int:
        return self.total - len(self._left) - len(self._in_flight)

    @property
    def complete(self) -> bool:
        return not self._left and not self._in_flight

    @property
    def chunk_message_bytes(self) -> int:
        return self._chunk_bytes + HEADER_BYTES
