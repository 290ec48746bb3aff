"""FedNova (Wang et al., NeurIPS 2020, arXiv:2007.07481, §4): devices that take more steps do not pull harder.

With pᵢ = nᵢ / Σ nⱼ and τᵢ local steps of SGD with momentum ρ, an update is aᵢ gradients long:

    aᵢ = [τᵢ − ρ(1 − ρ^τᵢ)/(1 − ρ)] / (1 − ρ)
    x += server_lr · (Σ pᵢ·aᵢ) · Σ pᵢ·sᵢ·uᵢ / aᵢ
"""

from __future__ import annotations

from coordinator.merges.base import Item, Mean, MergeSpec, State, Step
from wire.codecs import Decoded
from wire.codecs.arrays import Float32


def length_of(steps: int, momentum: float) -> float:
    """aᵢ: how many gradients `steps` local steps add up to; `steps` itself without momentum."""
    geometric = momentum * (1.0 - momentum**steps) / (1.0 - momentum)
    return float((steps - geometric) / (1.0 - momentum))


class FedNova:
    def __init__(self, n: int, spec: MergeSpec) -> None:
        self._mean, self._server_lr, self._momentum = Mean(n), spec.server_lr, spec.local_momentum
        self._lengths = self._samples = 0.0  # Σ nᵢ·aᵢ, Σ nᵢ

    def add(self, update: Decoded, item: Item) -> None:
        length = length_of(item.steps, self._momentum)
        self._mean.add(update, item.weight / length, item.samples)
        self._lengths += item.samples * length
        self._samples += item.samples

    def finish(self, master: Float32, state: State) -> Step:
        moved = self._mean.times(self._server_lr * (self._lengths / self._samples))
        moved += master
        return Step(moved, state)
