"""From a topic and bytes to events of the core. Nothing here trusts a byte; what makes no sense is refused by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from msgspec import Struct

from coordinator import events as e
from coordinator.inbox import Delivery
from wire import chunks, topics
from wire import messages as m

CHUNK_MESSAGE_BYTES_MAX = (1 << 20) + chunks.HEADER_BYTES  # the largest chunk a grant can ask for
HEARD_EVERY_S = 1.0
# Without a new chunk for so long an assembly gives its memory back, beyond any reconnect; the grant stays, and asks for
# everything again.
ASSEMBLY_IDLE_S = 600.0
# Updates remembered to tell a resend from a stranger: the tasks of a few rounds of a large fleet.
OVER_MAX = 4_096

KINDS: dict[str, type[m.Up]] = {
    "hello": m.Hello,
    "offer": m.Offer,
    "progress": m.Progress,
    "failed": m.Failed,
    "probed": m.Probed,
    "ask": m.Ask,
    "surveyed": m.Surveyed,
    "status": m.Status,
}


class Granted(Struct):
    """One open grant and its traffic, resends and headers included."""

    sha256: str
    bytes: int
    payload_bytes: int = 0
    chunks: int = 0
    heard_s: float = float("-inf")


class Complete(NamedTuple):
    """A whole update: its event for the core, and the bytes that wait for the journal, by their sha256."""

    event: e.UpdateReceived | e.OfferedWhole
    sha256: str
    payload: bytes


Refuse = Callable[[str, str, str, int], None]  # (agent, topic, reason, bytes)


class Inbound:
    """`refuse` is told of everything that is turned away; `defect_of` says why a payload cannot be merged."""

    def __init__(
        self, run: str, *, bytes_max: int, objects_max: int, refuse: Refuse, defect_of: Callable[[bytes], str]
    ) -> None:
        self._run, self._refuse, self._defect_of = run, refuse, defect_of
        self._assembler = chunks.Assembler(bytes_max, bytes_max, objects_max, ASSEMBLY_IDLE_S)
        self._granted: dict[tuple[str, str], Granted] = {}
        self._over: dict[
            tuple[str, str], str
        ] = {}  # sha256 of the update that is complete; empty: the task is closed
        # By agent: the task it was last sent with room, and how much.
        self._expected: dict[str, tuple[str, int]] = {}
        self.duplicates = 0  # chunks of updates that are complete: resends, no fault of anybody

    # --- grants, from the core's actions ------------------------------------------------------------------------

    def expect(self, agent: str, task: str, size: int) -> None:
        """Its task was sent with this room: one offer with an update is looked into. 0: none is."""
        if size or self._expected.get(agent, ("", 0))[0] == task:
            self._expected[agent] = (task, size)

    def grant(self, agent: str, task: str, sha256: str, size: int) -> tuple[int, ...] | None:
        """Let the chunks of this content in; returns the missing indexes, None for all."""
        open_ = self._granted.get((agent, task))
        if open_ is None or open_.sha256 != sha256:
            traffic = open_.payload_bytes if open_ else 0
            self._granted[agent, task] = Granted(sha256, size, payload_bytes=traffic)
        self._over.pop((agent, task), None)
        missing = self._assembler.missing(agent, task, sha256)
        return missing or None

    def geometry(self, agent: str, task: str, sha256: str) -> int | None:
        """Bytes per chunk that an assembly already has, if there is one."""
        found = self._assembler.geometry(agent, task, sha256)
        return found[0] if found else None

    def drop(self, agent: str, task: str) -> None:
        if self._granted.pop((agent, task), None) is not None:
            self._remember((agent, task), "")
        self._assembler.drop(agent, task)

    def expire(self, now: float) -> int:
        """Forget assemblies that nobody goes on with, each by the name of its sender; returns how many."""
        idle = self._assembler.expire(now)
        for key in idle:
            self._refuse(key.agent, topics.chunk(self._run, key.agent, key.task, 0), "expired", 0)
        return len(idle)

    def _remember(self, key: tuple[str, str], sha256: str) -> None:
        self._over.pop(key, None)
        while len(self._over) >= OVER_MAX:
            del self._over[next(iter(self._over))]
        self._over[key] = sha256

    # --- deliveries ------------------------------------------------------------------------------------------

    def take(self, delivery: Delivery, now: float) -> e.Event | Complete | None:
        upward = topics.parse_upward(self._run, delivery.topic)
        if upward is None:
            self._refuse(*_stranger(self._run, delivery.topic), len(delivery.payload))
            return None
        if upward.agent == topics.COORDINATOR:
            return None  # our own status comes back to us
        if upward.kind == "update":
            return self._chunk(upward, delivery, now)
        return self._control(upward, delivery)

    def _control(self, upward: topics.Upward, delivery: Delivery) -> e.Event | Complete | None:
        kind, size = KINDS.get(upward.kind), len(delivery.payload)
        if kind is None:
            self._refuse(upward.agent, delivery.topic, "unknown_topic", size)
            return None
        if upward.kind == "status" and not delivery.payload:
            return None  # a retained status was withdrawn
        try:
            message = m.decode_up(delivery.payload)
            reason = "" if isinstance(message, kind) else "wrong_topic"
        except m.MessageError as error:
            reason = error.reason
        if not reason and isinstance(message, m.Offer) and message.update:
            return self._offered_whole(upward.agent, message, delivery)
        if not reason:
            return e.MessageArrived(agent=upward.agent, message=message)
        self._refuse(upward.agent, delivery.topic, reason, size)
        return e.StatusRefused(agent=upward.agent) if upward.kind == "status" else None

    def _offered_whole(self, agent: str, message: m.Offer, delivery: Delivery) -> e.Event | Complete:
        """Whether there is room for it is the core's to say. With other bytes than it speaks of it is a mere offer.

        So is one that nobody waits for: a few bytes may unpack to a model, and whoever sends them in every message
        would have us do nothing else.
        """
        payload, offer = message.update, msgspec.structs.replace(message, update=b"")
        expected, room = self._expected.pop(agent, ("", 0))
        if expected != offer.task or len(payload) > room:
            return e.MessageArrived(agent=agent, message=offer)
        if len(payload) != offer.bytes or hashlib.sha256(payload).hexdigest() != offer.sha256:
            self._refuse(agent, delivery.topic, "sha256", len(payload))
            return e.MessageArrived(agent=agent, message=offer)
        received = e.UpdateReceived(
            agent=agent,
            task=offer.task,
            sha256=offer.sha256,
            bytes=len(payload),
            payload_bytes=len(payload),  # as its sender counts it; no offer counts among the updates
            chunks=0,
            defect=self._defect_of(payload),
        )
        return Complete(e.OfferedWhole(offer=offer, received=received), offer.sha256, payload)

    def _chunk(self, upward: topics.Upward, delivery: Delivery, now: float) -> e.Event | Complete | None:
        payload, key = delivery.payload, (upward.agent, upward.task)
        granted = self._granted.get(key)
        if granted is None:
            self._without_grant(key, delivery)
            return None
        granted.payload_bytes += len(payload)
        reason = self._foreign(payload, granted, upward.chunk)
        if reason:
            self._refuse(upward.agent, delivery.topic, reason, len(payload))
            return None
        try:
            whole = self._assembler.add(upward.agent, upward.task, payload, now)
        except chunks.ChunkError as error:
            return self._broken(upward, delivery, error.reason)
        granted.chunks += 1
        if whole is not None:
            return self._complete(whole, granted)
        if now - granted.heard_s < HEARD_EVERY_S:
            return None
        granted.heard_s = now
        return e.ChunksHeard(agent=upward.agent, task=upward.task)

    def _without_grant(self, key: tuple[str, str], delivery: Delivery) -> None:
        """A resend of what we have, a chunk of a task that was closed meanwhile, or of one that never was granted."""
        over, payload = self._over.get(key), delivery.payload
        if over and len(payload) > chunks.HEADER_BYTES and _digest(payload) == over:
            self.duplicates += 1
            return
        reason = "not_granted" if over is None else "other_content" if over else "closed_task"
        self._refuse(key[0], delivery.topic, reason, len(payload))

    @staticmethod
    def _foreign(payload: bytes, granted: Granted, index: int) -> str:
        """Why this chunk is none of the granted update; nothing is allocated for it before that is known."""
        if not chunks.HEADER_BYTES < len(payload) <= CHUNK_MESSAGE_BYTES_MAX:
            return "malformed"
        _, _, _, its_index, _, total, _ = chunks.HEADER.unpack_from(payload)
        if _digest(payload) != granted.sha256 or total != granted.bytes:
            return "not_granted"
        return "" if its_index == index else "wrong_topic"

    def _broken(self, upward: topics.Upward, delivery: Delivery, reason: str) -> e.Event | None:
        if reason == "sha256":
            return e.UpdateBroken(agent=upward.agent, task=upward.task, reason=reason)
        self._refuse(upward.agent, delivery.topic, reason, len(delivery.payload))
        return None

    def _complete(self, whole: chunks.Assembled, granted: Granted) -> Complete:
        del self._granted[whole.agent, whole.task]
        self._remember((whole.agent, whole.task), whole.sha256)
        event = e.UpdateReceived(
            agent=whole.agent,
            task=whole.task,
            sha256=whole.sha256,
            bytes=len(whole.payload),
            payload_bytes=granted.payload_bytes,
            chunks=granted.chunks,
            defect=self._defect_of(whole.payload),
        )
        return Complete(event, whole.sha256, whole.payload)


def _digest(payload: bytes) -> str:
    """What a chunk says of its object; the caller knows that there is a header."""
    digest: bytes = chunks.HEADER.unpack_from(payload)[2]
    return digest.hex()


def _stranger(run: str, topic: str) -> tuple[str, str, str]:
    """(sender, topic, reason) of a topic that is none of this run's: the broker's ACL should have kept it away."""
    parts = topic.split("/")
    ours = len(parts) > 3 and parts[0] == "rig"
    sent_up = ours and parts[2] in ("up", "status") and topics.NAME.match(parts[3]) is not None
    sender = parts[3] if sent_up else ""
    return sender, topic, "wrong_run" if ours and parts[1] != run else "unknown_topic"
