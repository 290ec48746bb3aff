"""No rotation."""

from __future__ import annotations

from wire.codecs.arrays import Float32
from wire.codecs.rotate.base import ROTATIONS


class Unrotated:
    name = "none"
    code = 0

    def padded(self, count: int) -> int:
        return count

    def forward(self, values: Float32, seed: int) -> Float32:
        return values

    def backward(self, rotated: Float32, count: int, seed: int) -> Float32:
        return rotated


ROTATIONS.add(Unrotated())
