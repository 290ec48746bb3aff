"""The live objects: the graph, live versions whole, and the deltas that lead to the newest. Bytes only, no network.

The current version is live, and older ones for as long as open tasks name them (`keep`); with each of them the server's
control variate as of it, where there is one (`coordinator.controls`). Agents that hold one of the
last versions fetch the chain of deltas from there, everybody else the whole version. Old objects are withdrawn (empty
retained chunks), so what a broker keeps does not grow with the rounds.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection
from typing import NamedTuple

import msgspec

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
        self.dtype, self._chunk_bytes = dtype, chunk_bytes
        self._patterns: Patterns | None = None
        self._wholes: dict[int, tuple[Retained, ModelRef]] = {}  # by version; the ref without its deltas
        self._deltas: deque[Retained] = deque()
        self._controls: dict[int, Retained] = {}
        self.version = -1

    def advance(
        self, version: int, patterns: Patterns, keep: Collection[int] = (), control: Patterns | None = None
    ) -> Change:
        """Make `version` the current one, beside those in `keep`. Returns what is new and what has to go."""
        old_deltas = tuple(self._deltas)
        fresh = [self._whole(version, patterns)]
        if self._patterns is not None and version == self.version + 1:
            delta = versions.encode_delta(self._patterns, patterns)
            fresh.append(
                retained(f"v{self.version}-v{version}", delta, self._chunk_bytes, base_version=self.version)
            )
            self._deltas.append(fresh[-1])
        else:
            self._deltas.clear()
        whole = fresh[0]
        self._trim(whole.ref.bytes)
        gone = [item.ref for item in old_deltas if item not in self._deltas]
        for old in sorted(self._wholes.keys() - {*keep, version}):
            gone += self._let_go(old)
        self.version, self._patterns = version, patterns
        self._wholes[version] = (whole, self._reference(version, patterns, whole))
        kept = tuple(item for item in fresh if item is whole or item in self._deltas)
        if control is not None:
            payload = versions.encode_full(control)
            self._controls[version] = retained(f"c{version}", payload, self._chunk_bytes)
            kept += (self._controls[version],)
        return Change(kept, tuple(gone))

    def withdraw(self, version: int) -> tuple[ObjectRef, ...]:
        """No task needs this older version any more: what has to go."""
        assert version != self.version, f"version {version} is the current one"
        return tuple(self._let_go(version))

    def _let_go(self, version: int) -> list[ObjectRef]:
        whole, control = self._wholes.pop(version, None), self._controls.pop(version, None)
        return ([] if whole is None else [whole[0].ref]) + ([] if control is None else [control.ref])

    def control_of(self, version: int) -> ObjectRef:
        """The server's control variate as of a live version."""
        assert version in self._controls, (
            f"no control variate of {version}, of {sorted(self._controls)} there are"
        )
        return self._controls[version].ref

    def _whole(self, version: int, patterns: Patterns) -> Retained:
        return retained(f"v{version}", versions.encode_full(patterns), self._chunk_bytes)

    def _trim(self, full_bytes: int) -> None:
        """Drop the oldest deltas while there are too many, or their chain is no shorter than the whole."""
        while self._deltas and (
            len(self._deltas) > DELTAS_MAX or sum(d.ref.bytes for d in self._deltas) >= full_bytes
        ):
            self._deltas.popleft()

    def _reference(self, version: int, patterns: Patterns, whole: Retained) -> ModelRef:
        return ModelRef(
            version=version,
            sha256=versions.version_sha256(patterns),
            parameters=versions.parameters_of(patterns),
            dtype=self.dtype,
            full=whole.ref,
        )

    @property
    def ref(self) -> ModelRef:
        """Of the current version."""
        return self.ref_of(self.version)

    def ref_of(self, version: int) -> ModelRef:
        """A live version and every way to it: whole, or by the chain of deltas that ends with it."""
        assert version in self._wholes, f"version {version} is not live, {sorted(self._wholes)} are"
        chain = tuple(
            d.ref for d in self._deltas if d.ref.base_version is not None and d.ref.base_version < version
        )
        return msgspec.structs.replace(self._wholes[version][1], deltas=chain)

    def everything(self) -> list[Retained]:
        """All live objects, the graph first: it is what a new agent needs first."""
        wholes = (whole for whole, _ in self._wholes.values())
        return [self.graph, *wholes, *self._controls.values(), *self._deltas]

    def parameters(self) -> Float32:
        """The current version as agents have it: float32[n], a fresh array."""
        assert self._patterns is not None, "no version has been made current"
        return versions.from_patterns(self._patterns)
