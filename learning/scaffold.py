"""SCAFFOLD, the device's side (Karimireddy et al. 2020, arXiv:1910.06378), option II.

Every step's gradient is corrected by c − cᵢ, the server's control variate minus the device's own. After K
steps with learning rate η the device's new variate is cᵢ⁺ = cᵢ − c + (received − trained)/(K·η), with the K
really taken. It is proposed with the update and becomes the device's own only when the update is settled: of
a discarded update nothing may remain. The variate is durable; `to_bytes`/`from_bytes` are what a spool
writes.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from learning.artifact import ArtifactError, Flat

HEADER = struct.Struct("<4sQI")  # magic, length, crc32 of the values
MAGIC = b"SCF1"


class ControlVariate:
    """A device's own control variate cᵢ, and what it would become."""

    def __init__(self, size: int) -> None:
        self.own: Flat = np.zeros(size, np.float32)
        self.proposed: tuple[str, Flat] | None = None

    def correction(self, server: Flat) -> Flat:
        """What is added to every gradient of a task: c − cᵢ."""
        difference: Flat = server - self.own
        return difference

    def propose(self, task: str, server: Flat, delta: Flat, steps: int, lr: float) -> Flat:
        """Compute cᵢ⁺ for a finished task; returns cᵢ⁺ − cᵢ, which travels with the update.

        `delta` is trained − received. Plain SGD only: with momentum delta/(K·lr) is no mean gradient.
        """
        if steps < 1 or not lr > 0:
            raise ValueError(
                f"{steps} steps with lr {lr}: SCAFFOLD needs at least one step and a positive rate"
            )
        new: Flat = self.own - server - delta / np.float32(steps * lr)
        self.proposed = (task, new)
        difference: Flat = new - self.own
        return difference

    def settle(self, task: str, merged: bool) -> bool:
        """Take over (merged) or forget what was proposed for `task`. False if nothing was."""
        if self.proposed is None or self.proposed[0] != task:
            return False
        if merged:
            self.own = self.proposed[1]
        self.proposed = None
        return True

    def to_bytes(self) -> bytes:
        values = self.own.astype("<f4", copy=False).tobytes()
        return HEADER.pack(MAGIC, self.own.size, zlib.crc32(values)) + values

    @staticmethod
    def from_bytes(data: bytes, size: int) -> ControlVariate:
        """Raises ArtifactError if torn, damaged, of another model or not finite."""
        if len(data) != HEADER.size + 4 * size:
            raise ArtifactError(f"control variate of {len(data)} bytes, expected {HEADER.size + 4 * size}")
        magic, count, crc = HEADER.unpack(data[: HEADER.size])
        if magic != MAGIC or count != size or zlib.crc32(data[HEADER.size :]) != crc:
            raise ArtifactError("control variate is damaged or of another model")
        variate = ControlVariate(size)
        variate.own[:] = np.frombuffer(data, "<f4", offset=HEADER.size)
        if not np.isfinite(variate.own).all():
            raise ArtifactError("control variate is not finite")
        return variate
