"""Getting one object from retained chunks: which topics to subscribe to, bounded in bytes on their way. Pure.

A retained chunk comes as often as its topic is subscribed to, so subscribing is asking. A chunk that does not come is
asked for again after a while; after a reconnect only what is missing is.
"""

from __future__ import annotations

from msgspec import Struct

from wire.chunks import Assembler, ChunkError, parse
from wire.messages import ControlRef, ModelRef, ObjectRef

WINDOW_BYTES_MAX = 256 * 1024  # outstanding; more would only queue in the broker, in front of a cancel
WINDOW_S = 1.0  # and no more than a second of the link
CHUNKS_MIN = 2  # two on their way keep the link busy while the next subscription travels
CHUNKS_MAX = 64  # topics in one SUBSCRIBE packet
STALL_S = 10.0  # a version that is published anew after a broker's restart takes seconds to come back
STALL_MAX_S = 60.0


class Steps(Struct, frozen=True):
    """What to do at the broker now, as chunk indexes of the object."""

    subscribe: tuple[int, ...] = ()
    unsubscribe: tuple[int, ...] = ()


class Fetch:
    """`link_bit_s`: what is known about the link, 0 if nothing. Sizes were checked when the task came."""

    def __init__(
        self,
        task: str,
        reference: ObjectRef,
        model: ModelRef | None,
        leads_to: int | None,
        link_bit_s: int,
        now: float,
        control: ControlRef | None = None,
    ) -> None:
        self.task, self.reference, self.model, self.leads_to = task, reference, model, leads_to
        self.control = control
        self.began = now
        self.payload: bytes | None = None
        self.failure = ""
        self._assembler = Assembler(reference.bytes, reference.bytes, 1, float("inf"), agent_objects_max=1)
        self._missing = dict.fromkeys(range(reference.chunks))
        self._asked: set[int] = set()
        self._subscribed: set[int] = set()
        self._window = self._window_chunks(link_bit_s)
        self._heard, self._stalls = now, 0

    def _window_chunks(self, link_bit_s: int) -> int:
        limit = WINDOW_BYTES_MAX if link_bit_s == 0 else min(WINDOW_BYTES_MAX, int(link_bit_s / 8 * WINDOW_S))
        size = -(-self.reference.bytes // self.reference.chunks)
        return min(max(limit // size, CHUNKS_MIN), CHUNKS_MAX)

    @property
    def done(self) -> int:
        return self.reference.chunks - len(self._missing)

    def steps(self, now: float) -> Steps:
        """Ask for as many chunks as the window has room for; let go of those that came."""
        if now >= self.stalled_at:
            self._stalls += 1
            self._heard = now
            self._asked.clear()
        fresh = []
        for index in self._missing:
            if len(self._asked) >= self._window:
                break
            if index not in self._asked:
                self._asked.add(index)
                fresh.append(index)
        gone = self._subscribed - self._missing.keys()
        self._subscribed = (self._subscribed | set(fresh)) - gone
        return Steps(tuple(fresh), tuple(sorted(gone)))

    @property
    def stalled_at(self) -> float:
        """When to ask again for what did not come."""
        return self._heard + min(STALL_S * 2.0**self._stalls, STALL_MAX_S)

    def reconnected(self, now: float) -> None:
        """The broker may have forgotten the subscriptions, and everything else."""
        self._asked.clear()
        self._heard, self._stalls = now, 0

    def letting_go(self) -> tuple[int, ...]:
        """Everything still subscribed to, when the object is not wanted any more."""
        left, self._subscribed = tuple(sorted(self._subscribed)), set()
        return left

    def chunk(self, index: int, message: bytes, now: float) -> str:
        """Take a chunk that came on topic `index`. Returns why it is refused, or an empty string.

        Afterwards `payload` is the whole object if it is complete, or `failure` says why it never will be.
        """
        try:
            chunk = parse(message)
            if chunk.sha256 != self.reference.sha256:
                return "other_object"
            if chunk.index != index or (chunk.count, chunk.total_bytes) != (
                self.reference.chunks,
                self.reference.bytes,
            ):
                return "geometry"
            whole = self._assembler.add("", self.task, message, now)
        except ChunkError as error:
            if error.reason == "sha256":
                self.failure = str(error)
            return error.reason
        self._missing.pop(index, None)
        self._asked.discard(index)
        self._heard, self._stalls = now, 0
        if whole is not None:
            self.payload = whole.payload
        return ""
