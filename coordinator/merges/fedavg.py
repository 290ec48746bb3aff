"""FedAvg on differences (McMahan et al., AISTATS 2017, algorithm 1): x += server_lr · Σ nᵢ·sᵢ·uᵢ / Σ nᵢ."""

from __future__ import annotations

from coordinator.merges.base import Item, Mean, MergeSpec, State, Step
from wire.codecs import Decoded
from wire.codecs.arrays import Float32


class FedAvg:
    def __init__(self, n: int, spec: MergeSpec) -> None:
        self._mean, self._server_lr = Mean(n), spec.server_lr

    def add(self, update: Decoded, item: Item) -> None:
        self._mean.add(update, item.weight, item.samples)

    def finish(self, master: Float32, state: State) -> Step:
        moved = self._mean.times(self._server_lr)
        moved += master
        return Step(moved, state)
