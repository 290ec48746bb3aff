"""The recorded updates under `data/`: what they are, how they are read.

An update here is what error feedback hands to the codec (residual + delta) in a real training. Recorded
whole, fifteen of them would be 100 MB, so a file holds of each its largest elements (5 % more than the chain
keeps), exact to the last bit, and the energy of all. The payload that the chain makes of the recording is
byte for byte the payload it made of the original: `record_updates` refuses to write a file for which that
does not hold. What is below the recorded elements is filled with noise of the original's energy, so that
times are those of a full vector.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from wire.codecs import CodecSpec, Sparsify, decode

DATA = Path(__file__).parent / "data"

CHAINS = {
    "top_k_1pct_int8": CodecSpec(
        sparsify=Sparsify(kind="top_k", fraction=0.01), quantize="int8", entropy="smallest"
    ),
    "stc_1_100": CodecSpec(
        sparsify=Sparsify(kind="top_k", fraction=1 / 100), quantize="ternary", entropy="smallest"
    ),
    "stc_1_400": CodecSpec(
        sparsify=Sparsify(kind="top_k", fraction=1 / 400), quantize="ternary", entropy="smallest"
    ),
}


class Update(Struct, frozen=True):
    """`energy`: sum of squares of the whole vector; `top`: its largest elements, a payload of
    `wire.codecs`.
    """

    round: int
    device: int
    seed: int
    energy: float
    top: bytes


class Recording(Struct, frozen=True):
    """`n` elements each, in tensors of these `shapes`; `training`: the settings in words, for the reader."""

    chain: str
    n: int
    shapes: list[list[int]]
    training: str
    updates: list[Update]


class Slice(Struct, frozen=True):
    """The first elements of one local delta, float32, whole: for what needs every bit."""

    training: str
    values: bytes


def load(name: str) -> Recording:
    return msgspec.msgpack.decode((DATA / f"{name}.msgpack").read_bytes(), type=Recording)


def load_slice() -> NDArray[np.float32]:
    stored = msgspec.msgpack.decode((DATA / "delta_slice.msgpack").read_bytes(), type=Slice)
    return decode(stored.values, n=SLICE_ELEMENTS).values


SLICE_ELEMENTS = 1 << 18


def restore(update: Update, n: int) -> NDArray[np.float32]:
    """float32[n]: the recorded elements exactly, below them noise of the energy that is left."""
    top = decode(update.top, n=n)
    assert top.positions is not None
    kept = float(np.sum(np.square(top.values, dtype=np.float64)))
    limit = float(np.abs(top.values).min())
    # Laplace noise: most of what is left is tiny. It must stay below what is recorded, or it would be chosen.
    scale = np.sqrt(max(update.energy - kept, 0.0) / max(n - top.values.size, 1) / 2)
    noise = np.random.default_rng(update.seed).laplace(0.0, max(scale, 1e-30), n)
    vector = np.clip(noise, -0.999 * limit, 0.999 * limit).astype(np.float32)
    vector[top.positions] = top.values
    return vector
