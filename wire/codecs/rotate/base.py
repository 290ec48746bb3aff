"""The protocol of rotations and their registry."""

from __future__ import annotations

from typing import Protocol

from wire.codecs.arrays import Float32
from wire.codecs.registry import Registry


class Rotation(Protocol):
    """An orthogonal map, drawn alike on both sides from the seed.

    Bit for bit the same on every machine: the device takes out of its residual what the coordinator will
    decode.
    """

    name: str
    code: int

    def padded(self, count: int) -> int:
        """How many elements `count` become."""

    def forward(self, values: Float32, seed: int) -> Float32:
        """float32[padded(count)]"""

    def backward(self, rotated: Float32, count: int, seed: int) -> Float32:
        """float32[count]; the inverse but for rounding."""


ROTATIONS: Registry[Rotation] = Registry("rotate")
