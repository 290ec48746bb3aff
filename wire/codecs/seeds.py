"""Randomness that a resend and a decoder can repeat."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

SEED_MASK = (1 << 64) - 1


def rounding_seed(run: str, device: str, task: str) -> int:
    """The 64-bit seed of everything random in one update, so that encoding it again gives the same bytes."""
    name = "\0".join((run, device, task)).encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "little")


def as_seed(seed: bytes | int) -> int:
    """A 64-bit seed from what the caller has."""
    if isinstance(seed, bytes):
        return int.from_bytes(hashlib.sha256(seed).digest()[:8], "little")
    return seed & SEED_MASK


def generator(seed: int) -> np.random.Generator:
    """For the encoder's own choices; the decoder never needs to repeat them."""
    return np.random.Generator(np.random.PCG64(seed))


def raw_bits(seed: int, count: int, purpose: int) -> NDArray[np.uint64]:
    """Random 64-bit words for what both sides must draw alike.

    Straight from the bit generator, whose stream numpy guarantees; the distributions on top of it may change
    between versions, and a device and its coordinator need not run the same one.
    """
    return np.random.PCG64(seed ^ purpose).random_raw(count).astype(np.uint64, copy=False)
