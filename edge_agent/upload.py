"""Sending one update: which chunks go next, bounded in bytes that the broker has not confirmed. Pure."""

from __future__ import annotations

import hashlib

from wire.chunks import chunk_count, cut

# A window of 64 kB chunks on a LAN would otherwise be hundreds of messages, ahead of every control message.
CHUNKS_IN_FLIGHT_MAX = 16
UNKNOWN_LINK_BIT_S = 1_000_000  # cautious: half of the slowest link that is sold as broadband
# A chunk's MQTT header, topic and TLS record, beside the chunk: what it takes of the window more than its own bytes.
FRAMING_BYTES = 128
# Of a full Ethernet frame 1,448 bytes are TCP's payload (links-and-faults.md): a second of a rate that counts frames
# carries so much less.
PAYLOAD_SHARE = 1448 / 1514


def link_bit_s(known_bit_s: int) -> int:
    return known_bit_s or UNKNOWN_LINK_BIT_S


def window_bytes(granted: int, uplink_bit_s: int) -> int:
    """At most one second of the link (ARCHITECTURE.md, Transport), whatever the grant allows."""
    return min(granted, int(link_bit_s(uplink_bit_s) / 8 * PAYLOAD_SHARE))


class Upload:
    """Chunks in order, each again until confirmed. One chunk is always allowed, however small the window is.

    Unconfirmed bytes are everything between here and the broker: paho's queue, the socket's buffer, the link's queue
    and the wire. `others_bytes` of `next_chunk` is what else of ours is still under way there.
    """

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
        # A grant that names chunks asks for them again.
        self.resent = self.total if missing is not None else 0
        self.sent_bytes = 0

    def next_chunk(self, others_bytes: int = 0) -> tuple[int, bytes] | None:
        """The next chunk to hand to the transport, or None while the window is full or nothing is left."""
        if not self._left or len(self._in_flight) >= CHUNKS_IN_FLIGHT_MAX:
            return None
        message = cut(self._payload, self._chunk_bytes, self._left[-1], self._digest)
        size, under_way = len(message) + FRAMING_BYTES, sum(self._in_flight.values()) + others_bytes
        if under_way and under_way + size > self._window:
            return None
        index = self._left.pop()
        self._in_flight[index] = size
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
    def in_flight_bytes(self) -> int:
        return sum(self._in_flight.values())
