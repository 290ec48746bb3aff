"""No update is longer than a bound: uᵢ · min(1, bound / ‖uᵢ‖).

`norm_bound` (Sun et al. 2019, arXiv:1911.07963) is the weighted mean of clipped updates. `dp_fedavg` (McMahan et al.,
ICLR 2018, arXiv:1710.06963; fixed denominator) adds noise: every update counts once, whatever its samples, so that one
device moves the sum by at most the bound C, and

    x += server_lr · (Σ sᵢ·clip(uᵢ) + N(0, (z·C)²)) / K,     K: the updates a version wants, not those that came

The noise comes from a secret seed in the coordinator's journal and the version's number, so that an audit can repeat
it; who has the journal can take the noise off. It is floating-point noise, not proof against the attack of Mironov
(CCS 2012) on its low bits. `history.privacy` says what it amounts to.
"""

from __future__ import annotations

import numpy as np

from coordinator.merges.base import Item, Mean, MergeSpec, State, Step
from wire.codecs import Decoded
from wire.codecs.arrays import BLOCK, Float32


def shrink(update: Decoded, bound: float) -> float:
    """What to multiply an update with so that its norm is at most `bound`."""
    norm = update.norm()
    return 1.0 if norm <= bound else bound / norm


class NormBound:
    def __init__(self, n: int, spec: MergeSpec) -> None:
        self._mean, self._server_lr, self._bound = Mean(n), spec.server_lr, spec.rule.norm

    def add(self, update: Decoded, item: Item) -> None:
        self._mean.add(update, item.weight * shrink(update, self._bound), item.samples)

    def finish(self, master: Float32, state: State) -> Step:
        moved = self._mean.times(self._server_lr)
        moved += master
        return Step(moved, state)


class DpFedAvg:
    def __init__(self, n: int, spec: MergeSpec) -> None:
        self._sum = np.zeros(n, np.float32)
        self._bound, self._std = spec.rule.norm, spec.rule.noise_multiplier * spec.rule.norm
        self._factor = np.float32(spec.server_lr / spec.wanted)
        self._seed = np.random.SeedSequence([spec.noise_seed, spec.version])

    def add(self, update: Decoded, item: Item) -> None:
        update.add_into(self._sum, item.factor * shrink(update, self._bound))

    def finish(self, master: Float32, state: State) -> Step:
        noise = np.random.Generator(np.random.Philox(self._seed))
        for start in range(0, self._sum.size, BLOCK):
            piece = self._sum[start : start + BLOCK]
            piece += noise.normal(0.0, self._std, piece.size).astype(np.float32)
        self._sum *= self._factor
        self._sum += master
        return Step(self._sum, state)
