"""What a payload decodes to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wire.codecs.arrays import BLOCK, Float32, Positions

# The coordinator's, not the device's: a megabyte stays in a server's second-level cache, smaller pieces cost a tenth.
ADD_BLOCK = 262_144


@dataclass(frozen=True, slots=True)
class Decoded:
    """A checked update: sparse (`positions` strictly increasing, values float32[m]) or dense (float32[n])."""

    n: int
    positions: Positions | None
    values: Float32

    def add_into(self, accumulator: NDArray[np.floating], weight: float = 1.0) -> None:
        """accumulator += weight * update, multiplied and added in the accumulator's own precision.

        Elements are independent, so the result depends on the order of calls only: replaying the recorded
        order gives the same bits.
        """
        if accumulator.shape != (self.n,):
            raise ValueError(f"accumulator of shape {accumulator.shape} for an update of {self.n} elements")
        factor = accumulator.dtype.type(weight)
        if self.positions is not None:
            # No position comes twice; `add.at` takes half the time of indexing twice.
            np.add.at(accumulator, self.positions, np.multiply(self.values, factor, dtype=accumulator.dtype))
            return
        scratch = np.empty(min(self.n, ADD_BLOCK), accumulator.dtype)
        for start in range(0, self.n, ADD_BLOCK):
            values = self.values[start : start + ADD_BLOCK]
            piece = np.multiply(values, factor, out=scratch[: values.size])
            accumulator[start : start + ADD_BLOCK] += piece

    def take_out_of(self, vector: Float32) -> None:
        """vector -= update, in place: what is left is what the update does not carry."""
        if self.positions is None:
            vector -= self.values
        else:
            vector[self.positions] -= self.values

    def dense(self) -> Float32:
        """The whole update, float32[n]; a fresh array."""
        if self.positions is None:
            return self.values.copy()
        vector = np.zeros(self.n, np.float32)
        vector[self.positions] = self.values
        return vector

    def norm(self) -> float:
        """Euclidean norm, summed in float64 so that no finite update has an infinite one."""
        total = 0.0
        for start in range(0, self.values.size, BLOCK):
            piece = self.values[start : start + BLOCK].astype(np.float64)
            total += float(np.sum(piece * piece))
        return float(np.sqrt(total))
