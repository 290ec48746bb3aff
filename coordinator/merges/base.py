"""What every merge works with: one update of the list, the rule's numbers, the server's own memory, and a fold.

A merge is a *fold*: it takes checked updates one at a time, in the recorded order, and then makes the next master and
the next server state. It is a function of the list, the master and the state alone, in float32 and in a fixed order of
operations, so recovery and audit repeat it bit for bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct, field

from topology.plan import MergePlan
from wire.codecs import Decoded
from wire.codecs.arrays import Float32

# What a server optimizer remembers between versions, by name: float32[n] each. Never changed in place.
State: TypeAlias = Mapping[str, Float32]

EMPTY: State = {}


class Item(NamedTuple):
    """One update of a version: a row (position, task, samples, factor) of the journal with its bytes.

    `samples` is n, already capped by what the task declared; `factor` is s, the damping by staleness (1 when fresh);
    `steps` are the local steps behind it, capped like the samples.
    """

    payload: bytes | memoryview
    samples: int
    factor: float = 1.0
    steps: int = 1
    task: str = ""
    control: Decoded | None = None  # what travels with the update (SCAFFOLD), once decoded

    @property
    def weight(self) -> float:
        return self.samples * self.factor


class MergeSpec(Struct, frozen=True, kw_only=True):
    """How a run merges, and for which version. `state`: (start, stop) of slices that are statistics, not weights."""

    rule: MergePlan = field(default_factory=MergePlan)
    server_lr: float = 1.0
    version: int = 1
    local_momentum: float = 0.0
    local_epochs: int = 1
    local_steps: int | None = None  # instead of epochs
    batch_size: int = 1
    state: tuple[tuple[int, int], ...] = ()
    variances: tuple[tuple[int, int], ...] = ()  # those of them that are never negative
    agents: int = 1  # of the run
    wanted: int = 1  # updates a version wants: the cohort, or the buffer
    noise_seed: int = 0  # secret of the coordinator's journal

    def counted_steps(self, claimed: int, samples: int) -> int:
        """A claim counts up to what the task asked of so many samples."""
        asked = self.local_steps or self.local_epochs * math.ceil(samples / self.batch_size)
        return min(max(claimed, 1), max(asked, 1))


FEDAVG = MergeSpec()  # the plain mean, for whoever has no plan


class Step(NamedTuple):
    master: Float32
    state: State = EMPTY


class Fold(Protocol):
    def add(self, update: Decoded, item: Item) -> None:
        """Take one checked update. What it needs of it beyond this call it copies."""

    def finish(self, master: Float32, state: State) -> Step:
        """The next master and state, fresh arrays. Called once, after at least one update."""


Merge = Callable[[int, MergeSpec], Fold]  # (number of parameters, spec)


class Mean:
    """Σ nᵢ·sᵢ·uᵢ in float32 and Σ nᵢ in float64: dividing by Σ nᵢ·sᵢ would cancel a staleness all have alike."""

    def __init__(self, n: int) -> None:
        self._sum = np.zeros(n, np.float32)
        self._total = 0.0

    def add(self, update: Decoded, weight: float, samples: float) -> None:
        update.add_into(self._sum, weight)
        self._total += samples

    def times(self, factor: float) -> Float32:
        """factor · Σ nᵢ·sᵢ·uᵢ / Σ nᵢ, float32[n]. Uses the accumulator up."""
        self._sum *= np.float32(factor / self._total)
        return self._sum


def pack_state(state: State) -> bytes:
    """What a snapshot keeps; the same state gives the same bytes."""
    return msgspec.msgpack.encode(
        {name: state[name].astype("<f4", copy=False).tobytes() for name in sorted(state)}
    )


def unpack_state(packed: bytes) -> State:
    """Raises msgspec.DecodeError or ValueError for bytes that are none."""
    vectors = msgspec.msgpack.decode(packed, type=dict[str, bytes])
    return {name: np.frombuffer(data, "<f4").astype(np.float32) for name, data in vectors.items()}


def state_sha256(state: State) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + b"\0")
        digest.update(state[name].astype("<f4", copy=False).data)
    return digest.hexdigest()
