"""How updates become the next version, resolved."""

from __future__ import annotations

from msgspec import Struct

PAIRED = frozenset({"scaffold"})  # kinds whose updates carry a second vector (wire.pair)


class MergePlan(Struct, frozen=True, kw_only=True):
    """One rule of `coordinator.merges`. Fields that another kind reads are at their defaults and mean nothing."""

    kind: str = "fedavg"  # a name of `coordinator.merges.MERGES`, or of a plug-in
    momentum: float = 0.9  # fedavgm
    beta1: float = 0.9  # fedadam, fedyogi
    beta2: float = 0.99
    tau: float = 1e-3
    trim: float = 0.1  # trimmed_mean: share cut off at each end
    byzantine: int = 1  # krum: f
    keep: int = 1  # krum: m
    norm: float = 1.0  # norm_bound, dp_fedavg: C
    noise_multiplier: float = 1.0  # dp_fedavg: z
    delta: float = 1e-5  # dp_fedavg
    control: str = "fp16"  # scaffold: how the change of a control variate is quantized
    # Update bytes the journal keeps. Beyond it the oldest merged ones go, after a snapshot that makes up for them.
    journal_bytes_max: int = 4 << 30

    @property
    def paired(self) -> bool:
        return self.kind in PAIRED
