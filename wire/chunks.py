"""Objects too large for one message: cut into chunks, put together again in any order, checked, bounded.

Every chunk says which object it belongs to, so a duplicate, a chunk out of order or one of a cancelled task
is recognised by itself and a gap never restarts an assembly.

    header   56 bytes: magic "EC", format, zero, sha256 of the object, index, chunks, bytes of the object,
    bytes per
             chunk (u32 each; the last chunk may be shorter), crc32 of header and body
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

MAGIC = b"EC"
FORMAT = 1
HEADER = struct.Struct("<2sBx32sIIII")
CRC = struct.Struct("<I")
HEADER_BYTES = HEADER.size + CRC.size

OBJECT_BYTES_MAX = 1 << 30  # what `wire.messages.ObjectRef` and `Offer` allow
CHUNKS_MAX = 65_536  # what `Grant.missing` can list
AGENT_OBJECTS_MAX = 2  # an agent has one update at a time; after a lost spool a second one with other bytes

REASONS = {
    "malformed": "not a chunk of ours, or its sizes contradict each other",
    "version": "a chunk format this side does not speak",
    "crc": "damaged on the way",
    "too_large": "an object larger than one may be",
    "budget": "no room for another object now: too many bytes or objects are being put together",
    "geometry": "cut differently from the chunks of the same object before it",
    "disagree": "other bytes than the same chunk had before",
    "sha256": "all chunks are there, and they are not what was announced",
}


class ChunkError(ValueError):
    """A chunk that is refused. `reason` is a key of REASONS."""

    def __init__(self, reason: str, detail: str = "") -> None:
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {REASONS[reason]}" + (f" ({detail})" if detail else ""))
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk, checked in itself. `body` is a view of the message."""

    sha256: str
    index: int
    count: int
    total_bytes: int
    chunk_bytes: int
    body: memoryview


def chunk_count(total_bytes: int, chunk_bytes: int) -> int:
    return -(-total_bytes // chunk_bytes)


def split(payload: bytes, chunk_bytes: int) -> list[bytes]:
    """The chunks of an object, `chunk_bytes` of it in each. They take as much memory as the object again."""
    digest = hashlib.sha256(payload).digest()
    return [
        cut(payload, chunk_bytes, index, digest) for index in range(chunk_count(len(payload), chunk_bytes))
    ]


def cut(payload: bytes, chunk_bytes: int, index: int, digest: bytes | None = None) -> bytes:
    """Chunk `index` alone, for a sender that keeps one object and few chunks in memory.

    `digest`: the object's sha256 (32 bytes), if it is known already. Raises ValueError for sizes that no
    receiver would accept.
    """
    count = chunk_count(len(payload), chunk_bytes) if chunk_bytes > 0 else 0
    if not 0 <= index < count or count > CHUNKS_MAX or len(payload) > OBJECT_BYTES_MAX:
        raise ValueError(f"chunk {index} of {count}, {len(payload)} bytes cut by {chunk_bytes}")
    digest = hashlib.sha256(payload).digest() if digest is None else digest
    body = payload[index * chunk_bytes : (index + 1) * chunk_bytes]
    header = HEADER.pack(MAGIC, FORMAT, digest, index, count, len(payload), chunk_bytes)
    return b"".join((header, CRC.pack(zlib.crc32(body, zlib.crc32(header))), body))


def parse(message: bytes) -> Chunk:
    """The chunk in a message. Raises ChunkError: malformed, version, crc."""
    if len(message) < HEADER_BYTES:
        raise ChunkError("malformed", f"{len(message)} bytes")
    view = memoryview(message)
    magic, version, digest, index, count, total, size = HEADER.unpack(view[: HEADER.size])
    if magic != MAGIC:
        raise ChunkError("malformed", "magic")
    if version != FORMAT:
        raise ChunkError("version", f"{version}, this side speaks {FORMAT}")
    body = view[HEADER_BYTES:]
    (crc,) = CRC.unpack(view[HEADER.size : HEADER_BYTES])
    if zlib.crc32(body, zlib.crc32(view[: HEADER.size])) != crc:
        raise ChunkError("crc")
    chunk = Chunk(digest.hex(), index, count, total, size, body)
    _check_sizes(chunk)
    return chunk


def _check_sizes(chunk: Chunk) -> None:
    count, total, size = chunk.count, chunk.total_bytes, chunk.chunk_bytes
    if not 0 < total <= OBJECT_BYTES_MAX or size == 0 or not 0 < count <= CHUNKS_MAX:
        raise ChunkError("malformed", f"{total} bytes in {count} chunks of {size}")
    due = min(size, total - chunk.index * size)
    if count != chunk_count(total, size) or chunk.index >= count or len(chunk.body) != due:
        raise ChunkError("malformed", f"chunk {chunk.index} of {count} with {len(chunk.body)} bytes")


class Assembled(NamedTuple):
    """An object whose sha256 matches."""

    agent: str
    task: str
    sha256: str
    payload: bytes


class Key(NamedTuple):
    agent: str
    task: str
    sha256: str


class _Assembly:
    """One object on its way: its bytes, reserved at once, and which chunks have come."""

    def __init__(self, chunk: Chunk) -> None:
        self.count = chunk.count
        self.chunk_bytes = chunk.chunk_bytes
        self.touched_s = 0.0
        self.buffer = bytearray(chunk.total_bytes)
        self.have = bytearray(chunk.count)

    def put(self, chunk: Chunk) -> bool:
        """Store a chunk; True if it is new."""
        if (chunk.count, chunk.chunk_bytes, chunk.total_bytes) != (
            self.count,
            self.chunk_bytes,
            len(self.buffer),
        ):
            raise ChunkError("geometry", f"chunks of {chunk.chunk_bytes}, before of {self.chunk_bytes}")
        start = chunk.index * self.chunk_bytes
        place = memoryview(self.buffer)[start : start + len(chunk.body)]
        if self.have[chunk.index]:
            if place != chunk.body:
                raise ChunkError("disagree", f"chunk {chunk.index}")
            return False
        place[:] = chunk.body
        self.have[chunk.index] = 1
        return True

    def missing(self) -> Iterator[int]:
        return (index for index, have in enumerate(self.have) if not have)

    @property
    def complete(self) -> bool:
        return 0 not in self.have


class Assembler:
    """Puts objects together per (agent, task, sha256), within a budget over all agents. Pure: `now` is passed
    in.

    An agent that claims more than its share loses its own oldest assembly, never another agent's.
    """

    def __init__(
        self,
        total_bytes_max: int,
        per_object_bytes_max: int,
        objects_max: int,
        idle_s: float,
        *,
        agent_objects_max: int = AGENT_OBJECTS_MAX,
    ) -> None:
        self._total_bytes_max = total_bytes_max
        self._object_bytes_max = per_object_bytes_max
        self._objects_max = objects_max
        self._agent_objects_max = agent_objects_max
        self._idle_s = idle_s
        self._open: dict[Key, _Assembly] = {}
        self.bytes_held = 0

    def add(self, agent: str, task: str, message: bytes, now: float) -> Assembled | None:
        """Take a chunk; the object once it is whole and matches its sha256, else None.

        Raises ChunkError. After "sha256" the object is forgotten and may be sent again from the start.
        """
        chunk = parse(message)
        key = Key(agent, task, chunk.sha256)
        assembly = self._open.get(key) or self._begin(key, chunk, now)
        if not assembly.put(chunk):
            return None
        # Only new bytes count as life: repeating one chunk for ever does not hold memory for ever.
        assembly.touched_s = now
        return self._finish(key, assembly) if assembly.complete else None

    def missing(self, agent: str, task: str, sha256: str) -> tuple[int, ...] | None:
        """Indexes not here yet; None if nothing of this object is here (then all of them are)."""
        assembly = self._open.get(Key(agent, task, sha256))
        return None if assembly is None else tuple(assembly.missing())

    def geometry(self, agent: str, task: str, sha256: str) -> tuple[int, int] | None:
        """(bytes per chunk, chunks) that the rest of this object must be cut by; None if nothing is here."""
        assembly = self._open.get(Key(agent, task, sha256))
        return None if assembly is None else (assembly.chunk_bytes, assembly.count)

    def expire(self, now: float) -> list[Key]:
        """Forget what got nothing new for `idle_s`; returns what was forgotten."""
        idle = [key for key, assembly in self._open.items() if now - assembly.touched_s > self._idle_s]
        for key in idle:
            self._forget(key)
        return idle

    def drop(self, agent: str, task: str) -> int:
        """Forget every object of a task (it was cancelled or is journalled); returns how many."""
        keys = [key for key in self._open if (key.agent, key.task) == (agent, task)]
        for key in keys:
            self._forget(key)
        return len(keys)

    def _begin(self, key: Key, chunk: Chunk, now: float) -> _Assembly:
        if chunk.total_bytes > self._object_bytes_max:
            raise ChunkError("too_large", f"{chunk.total_bytes} bytes, at most {self._object_bytes_max}")
        self.expire(now)
        own = [other for other in self._open if other.agent == key.agent]
        if len(own) >= self._agent_objects_max:
            self._forget(min(own, key=lambda other: self._open[other].touched_s))
        room = self._total_bytes_max - self.bytes_held
        if chunk.total_bytes > room or len(self._open) >= self._objects_max:
            raise ChunkError("budget", f"{len(self._open)} objects, {self.bytes_held} bytes are open")
        assembly = self._open[key] = _Assembly(chunk)
        assembly.touched_s = now
        self.bytes_held += chunk.total_bytes
        return assembly

    def _finish(self, key: Key, assembly: _Assembly) -> Assembled:
        self._forget(key)
        if hashlib.sha256(assembly.buffer).hexdigest() != key.sha256:
            raise ChunkError("sha256")
        return Assembled(key.agent, key.task, key.sha256, bytes(assembly.buffer))

    def _forget(self, key: Key) -> None:
        self.bytes_held -= len(self._open.pop(key).buffer)
