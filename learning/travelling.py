"""What of a model travels: all of it but the parameters that every device keeps to itself.

A *whole* vector has every parameter of the artifact, in its order; a *travelling* one only those that are sent, in the
same order. Versions, updates and everything the coordinator computes are travelling vectors. Their first values of the
local parameters devices find in the artifact, which they fetch once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from learning.artifact import ArtifactError, Flat, ParameterSpec, TrainingArtifact, parts_of

Vector = npt.NDArray[Any]


class Pair(NamedTuple):
    """The same parameters in a whole vector and in a travelling one."""

    whole: slice
    moved: slice


@dataclass(frozen=True)
class Travelling:
    """`specs`: of the tensors that travel; `pairs`: neighbours joined, so without local parameters there is one."""

    artifact: TrainingArtifact
    specs: tuple[ParameterSpec, ...]
    pairs: tuple[Pair, ...]
    size: int

    @property
    def slices(self) -> list[slice]:
        """Of every tensor, in a travelling vector."""
        return parts_of(self.specs)

    @property
    def state(self) -> list[slice]:
        return parts_of(self.specs, lambda spec: spec.kind == "state")

    @property
    def variances(self) -> list[slice]:
        return parts_of(self.specs, lambda spec: spec.nonnegative)

    def cut(self, whole: Flat) -> Flat:
        """The travelling part of a whole vector, which is used up: what is returned is a view of its memory."""
        for pair in self.pairs:
            if pair.whole != pair.moved:
                # Never to the right, so nothing is lost before it is read.
                whole[pair.moved] = whole[pair.whole]
        return whole[: self.size]

    def widen(self, moved: Vector) -> Flat:
        """A whole float32 vector of its own: what has travelled, and the first values of what never does."""
        artifact = self.artifact
        if moved.shape != (self.size,) or moved.dtype not in (np.float32, np.float16):
            raise ArtifactError(f"got {moved.dtype} {moved.shape}, expected {self.size} float values")
        if self.size == artifact.size:
            return moved.astype(np.float32)
        whole: Flat = np.empty(artifact.size, np.float32)
        for pair in self.pairs:
            whole[pair.whole] = moved[pair.moved]
        put_local(artifact, whole, np.frombuffer(artifact.local_values, "<f4"))
        return whole


def travelling(artifact: TrainingArtifact) -> Travelling:
    """Where an artifact lacks first values of local parameters (an older version made it) all of it travels."""
    stays = bool(artifact.local_values)
    pairs: list[Pair] = []
    specs: list[ParameterSpec] = []
    at = 0
    for spec, part in zip(artifact.parameters, artifact.slices, strict=True):
        if stays and spec.local:
            continue
        specs.append(spec)
        begin = pairs.pop() if pairs and pairs[-1].whole.stop == part.start else Pair(part, slice(at, at))
        at += spec.size
        pairs.append(Pair(slice(begin.whole.start, part.stop), slice(begin.moved.start, at)))
    return Travelling(artifact, tuple(specs), tuple(pairs), at)


def local_size(artifact: TrainingArtifact) -> int:
    return sum(part.stop - part.start for part in artifact.local)


def put_local(artifact: TrainingArtifact, whole: Flat, own: Vector | None) -> bool:
    """Put a device's own values where they belong; of another model's layout nothing is taken."""
    if own is None or own.size != local_size(artifact):
        return False
    start = 0
    for part in artifact.local:
        size = part.stop - part.start
        whole[part] = own[start : start + size]
        start += size
    return True


def take_local(artifact: TrainingArtifact, whole: Flat) -> Flat | None:
    """A copy of a device's own values, one part after another; None where there are none."""
    parts = artifact.local
    return np.concatenate([whole[part] for part in parts]) if parts else None
