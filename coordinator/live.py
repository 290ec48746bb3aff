"""The live objects: the graph, the current version whole, and the deltas that lead to it. Bytes only, no network.

Agents that hold one of the last versions fetch the chain of deltas from there, everybody else the whole version. Old
objects are withdrawn (empty retained chunks), so what a broker keeps does not grow with the rounds.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import NamedTuple

from wire import chunks
from wire.codecs import model as versions
from wire.codecs.arrays import Float32
from wire.codecs.model import Patterns
from wire.messages import ModelRef, ObjectRef

DELTAS_MAX = 7  # with the whole version eight live ones; a longer chain is seldom smaller than the whole


class Retained(NamedTuple):
    """An object cut into the chunks it is published as."""

    ref: ObjectRef
    chunks: tuple[bytes, ...]


class Change(NamedTuple):
    publish: tuple[Retained, ...]
    withdraw: tuple[ObjectRef, ...]


def retained(name: str, payload: bytes, chunk_bytes: int, base_version: int | None = None) -> Retained:
    pieces = tuple(chunks.split(payload, chunk_bytes))
    digest = hashlib.sha256(payload).hexdigest()
    ref = ObjectRef(
        name=name, bytes=len(payload), chunks=len(pieces), sha256=digest, base_version=base_version
    )
    return Retained(ref, pieces)


class LiveModels:
    """`chunk_bytes`: of the retained chunks, the same for all agents."""

    def __init__(self, artifact: bytes, dtype: versions.Dtype, chunk_bytes: int) -> None:
        name = f"graph-{hashlib.sha256(artifact).hexdigest()[:8]}"
        self.graph = retained(name, artifact, chunk_bytes)
        self._dtype, self._chunk_bytes = dtype, chunk_bytes
        self._patterns: Patterns | None = None
        self._full: Retained | None = None
        self._deltas: deque[Retained] = deque()
        self.version = -1
        self._ref: ModelRef | None = None

    def advance(self, version: int, patterns: Patterns) -> Change:
        """Make `version` the current one. Returns what is new and what has to go."""
        old_full, old_deltas = self._full, tuple(self._deltas)
        fresh = [self._whole(version, patterns)]
        if self._patterns is not None and version == self.version + 1:
            delta = versions.encode_delta(self._patterns, patterns)
            fresh.append(
                retained(f"v{self.version}-v{version}", delta, self._chunk_bytes, base_version=self.version)
            )
            self._deltas.append(fresh[-1])
        else:
            self._deltas.clear()
        self._full = fresh[0]
        self._trim(self._full.ref.bytes)
        gone = [item.ref for item in old_deltas if item not in self._deltas]
        if old_full is not None:
            gone.append(old_full.ref)
        self.version, self._patterns = version, patterns
        self._ref = self._make_ref()
        kept = tuple(item for item in fresh if item is self._full or item in self._deltas)
        return Change(kept, tuple(gone))

    def _whole(self, version: int, patterns: Patterns) -> Retained:
        return retained(f"v{version}", versions.encode_full(patterns), self._chunk_bytes)

    def _trim(self, full_bytes: int) -> None:
        """Drop the oldest deltas while there are too many, or their chain is no shorter than the whole."""
        while self._deltas and (
            len(self._deltas) > DELTAS_MAX or sum(d.ref.bytes for d in self._deltas) >= full_bytes
        ):
            self._deltas.popleft()

    def _make_ref(self) -> ModelRef:
        assert self._full is not None
        assert self._patterns is not None
        return ModelRef(
            version=self.version,
            sha256=versions.version_sha256(self._patterns),
            parameters=self._patterns.size,
            dtype=self._dtype,
            full=self._full.ref,
            deltas=tuple(delta.ref for delta in self._deltas),
        )

    @property
    def ref(self) -> ModelRef:
        assert self._ref is not None, "no version has been made current"
        return self._ref

    def everything(self) -> list[Retained]:
        """All live objects, the graph first: it is what a new agent needs first."""
        full = [self._full] if self._full is not None else []
        return [self.graph, *full, *self._deltas]

    def parameters(self) -> Float32:
        """The current version as agents have it: float32[n], a fresh array."""
        assert self._patterns is not None, "no version has been made current"
        return versions.from_patterns(self._patterns)
