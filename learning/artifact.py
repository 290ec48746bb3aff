"""The training artifact: all a device needs to train a model, except the parameters' values.

It holds two ONNX graphs of ordinary nodes (one step's loss and gradients; inference for evaluation), whose
parameters are inputs, and the list that says how a flat float32 vector is cut into those parameters.
Parameters travel apart from it: a version is one flat vector in the order of that list. The bytes come from
the network, so every size is bounded and every number checked before anything is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct, field

ARTIFACT_SCHEMA = 1
ARTIFACT_BYTES_MAX = 64 << 20  # frozen layers travel inside; a device of 512 MiB could not train on more
PARAMETERS_MAX = 1 << 28  # 1 GiB of float32: four times what fits any supported device
SPECS_MAX = 4096  # tensors; GPT-2 has 148

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Dim = Annotated[int, Meta(ge=1, le=1 << 28)]
Flat = npt.NDArray[np.float32]


class ArtifactError(ValueError):
    """Bytes that are no training artifact, or one that contradicts itself."""


class ParameterSpec(Struct, frozen=True, kw_only=True):
    """One tensor of the flat vector. `state` is not trained but kept (running statistics).

    `nonnegative`: a variance. `local`: every device keeps its own values, which never travel (FedBN, local heads).
    """

    name: Name
    shape: Annotated[tuple[Dim, ...], Meta(max_length=8)]
    kind: Literal["weight", "bias", "norm", "state"]
    dtype: Literal["float32"] = "float32"
    nonnegative: bool = False
    local: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def trainable(self) -> bool:
        return self.kind != "state"


class InputSpec(Struct, frozen=True, kw_only=True):
    """What a device feeds: raw samples. The graph itself turns them into `(x·scale + offset)` floats."""

    dtype: Literal["uint8", "float32", "int64", "int32"] = "uint8"
    shape: Annotated[tuple[Dim, ...], Meta(max_length=8)] = ()  # of one sample, without the batch axis
    scale: float = 1.0 / 255.0
    offset: float = 0.0


class LabelSpec(Struct, frozen=True, kw_only=True):
    dtype: Literal["int64", "float32"] = "int64"
    shape: Annotated[tuple[Dim, ...], Meta(max_length=8)] = ()


class NoiseSpec(Struct, frozen=True, kw_only=True):
    """Uniform noise in [0, 1) a step wants as input `name`, batch axis included: dropout masks are cut from
    it.
    """

    name: Name
    shape: Annotated[tuple[Dim, ...], Meta(max_length=8)]


def parts_of(
    specs: Iterable[ParameterSpec], wanted: Callable[[ParameterSpec], bool] = lambda _: True
) -> list[slice]:
    """Where the wanted ones lie in a flat vector that has all of `specs`, one after another."""
    found, at = [], 0
    for spec in specs:
        if wanted(spec):
            found.append(slice(at, at + spec.size))
        at += spec.size
    return found


class TrainingArtifact(Struct, frozen=True, kw_only=True):
    """`training`: x, labels, weights, p:<name>... → loss_sum, correct, g:<name>... ; `inference`: x,
    p:<name>... → output.
    """

    schema: int = ARTIFACT_SCHEMA
    model: Name
    loss: Name
    batch_size: Annotated[int, Meta(ge=1, le=65_536)]
    input: InputSpec
    labels: LabelSpec
    parameters: Annotated[tuple[ParameterSpec, ...], Meta(min_length=1, max_length=SPECS_MAX)]
    output_shape: Annotated[tuple[Dim, ...], Meta(max_length=8)]
    noise: Annotated[tuple[NoiseSpec, ...], Meta(max_length=256)] = ()
    training: Annotated[bytes, Meta(max_length=ARTIFACT_BYTES_MAX)]
    inference: Annotated[bytes, Meta(max_length=ARTIFACT_BYTES_MAX)]
    counts_correct: bool = True
    # Run nodes in the order they are written: gradients end while their inputs are in the cache, 6 % faster on the
    # transformer. Not with im2col copies, which depend on the forward pass alone and would all be made at once.
    written_order: bool = False
    notes: Annotated[tuple[Annotated[str, Meta(max_length=512)], ...], Meta(max_length=64)] = field(
        default=()
    )
    # First values of the local parameters, little-endian float32, one part after another (learning.travelling).
    local_values: Annotated[bytes, Meta(max_length=ARTIFACT_BYTES_MAX)] = b""

    @property
    def size(self) -> int:
        """Length of the flat parameter vector."""
        return sum(spec.size for spec in self.parameters)

    @property
    def state(self) -> list[slice]:
        """Parts that are kept, not trained: no decay, no momentum, no sparsification; averaged by samples."""
        return parts_of(self.parameters, lambda spec: spec.kind == "state")

    @property
    def variances(self) -> list[slice]:
        return parts_of(self.parameters, lambda spec: spec.nonnegative)

    @property
    def local(self) -> list[slice]:
        """Parts that every device keeps to itself: it trains from its own values and sends nothing of them."""
        return parts_of(self.parameters, lambda spec: spec.local)

    @property
    def slices(self) -> list[slice]:
        return parts_of(self.parameters)

    @property
    def small(self) -> list[slice]:
        """Parts of the flat vector that compression should leave alone: biases, normalisation and state."""
        return parts_of(self.parameters, lambda spec: spec.kind != "weight")

    def to_bytes(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @staticmethod
    def from_bytes(data: bytes | memoryview) -> TrainingArtifact:
        """Decode and check. Raises ArtifactError, whatever the bytes are."""
        if len(data) > ARTIFACT_BYTES_MAX:
            raise ArtifactError(f"artifact of {len(data)} bytes: at most {ARTIFACT_BYTES_MAX} are read")
        try:
            artifact = msgspec.msgpack.decode(data, type=TrainingArtifact)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ArtifactError(f"not a training artifact: {error}") from error
        artifact.check()
        return artifact

    def check(self) -> None:
        if self.schema != ARTIFACT_SCHEMA:
            raise ArtifactError(f"artifact schema {self.schema}, this version reads {ARTIFACT_SCHEMA}")
        if len({spec.name for spec in self.parameters}) != len(self.parameters):
            raise ArtifactError("two parameters of one name")
        if self.size > PARAMETERS_MAX:
            raise ArtifactError(f"{self.size} parameters: at most {PARAMETERS_MAX} are trained")
        if not (math.isfinite(self.input.scale) and math.isfinite(self.input.offset)):
            raise ArtifactError("input scaling is not finite")
        self._check_local()

    def _check_local(self) -> None:
        if not self.local_values:
            return
        size = sum(part.stop - part.start for part in self.local)
        if len(self.local_values) != 4 * size:
            raise ArtifactError(f"{len(self.local_values)} bytes of local values for {size} parameters")
        if size == self.size:
            raise ArtifactError("every parameter is local: nothing travels")
        if not np.isfinite(np.frombuffer(self.local_values, "<f4")).all():
            raise ArtifactError("a local parameter's first value is not finite")


def flatten(artifact: TrainingArtifact, values: dict[str, npt.NDArray[Any]]) -> Flat:
    """One flat float32 vector from named tensors, in the artifact's order."""
    flat = np.empty(artifact.size, np.float32)
    for spec, part in zip(artifact.parameters, artifact.slices, strict=True):
        if values[spec.name].shape != spec.shape:
            raise ArtifactError(
                f"parameter {spec.name!r} has shape {values[spec.name].shape}, expected {spec.shape}"
            )
        flat[part] = values[spec.name].reshape(-1)
    return flat


def unflatten(artifact: TrainingArtifact, flat: Flat) -> dict[str, Flat]:
    """Named views into a flat vector: nothing is copied, writing to one writes to the vector."""
    if flat.shape != (artifact.size,) or flat.dtype != np.float32:
        raise ArtifactError(f"got {flat.dtype} {flat.shape}, expected {artifact.size} float32 values")
    return {
        spec.name: flat[part].reshape(spec.shape)
        for spec, part in zip(artifact.parameters, artifact.slices, strict=True)
    }
