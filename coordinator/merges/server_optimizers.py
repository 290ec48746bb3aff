"""FedOpt: the mean update Δ is a pseudo-gradient for an optimizer on the server.

FedAvgM (Hsu, Qi, Brown 2019, arXiv:1909.06335): v ← β·v + Δ; x ← x + server_lr·v.
FedAdam, FedYogi (Reddi et al., ICLR 2021, algorithm 2): m ← β₁·m + (1−β₁)·Δ; x ← x + server_lr·m / (√v + τ), with
v ← β₂·v + (1−β₂)·Δ² for Adam and v ← v − (1−β₂)·Δ²·sign(v − Δ²) for Yogi. There is no bias correction, and v begins at
τ², as in the paper. Moments are float32[n] in the server state: durable with every snapshot, part of the audit.
"""

from __future__ import annotations

import numpy as np

from coordinator.merges.base import Item, Mean, MergeSpec, State, Step
from wire.codecs import Decoded
from wire.codecs.arrays import Float32


class _OnTheMean:
    """Takes the mean as FedAvg does; `finish` is the optimizer's."""

    def __init__(self, n: int, spec: MergeSpec) -> None:
        self._mean, self._rule, self._rate = Mean(n), spec.rule, np.float32(spec.server_lr)

    def add(self, update: Decoded, item: Item) -> None:
        self._mean.add(update, item.weight, item.samples)


class FedAvgM(_OnTheMean):
    def finish(self, master: Float32, state: State) -> Step:
        velocity = self._mean.times(1.0)
        if "velocity" in state:
            velocity += np.float32(self._rule.momentum) * state["velocity"]
        moved = velocity * self._rate
        moved += master
        return Step(moved, {"velocity": velocity})


class _Adaptive(_OnTheMean):
    def finish(self, master: Float32, state: State) -> Step:
        rule, mean = self._rule, self._mean.times(1.0)
        tau = np.float32(rule.tau)
        before = state.get("first", np.zeros_like(master))
        second = state.get("second", np.full_like(master, tau * tau))
        first: Float32 = before * np.float32(rule.beta1)
        first += mean * np.float32(1.0 - rule.beta1)
        mean *= mean
        second = self._second(second, mean, np.float32(rule.beta2), np.float32(1.0 - rule.beta2))
        moved = first * self._rate
        moved /= np.sqrt(second) + tau
        moved += master
        return Step(moved, {"first": first, "second": second})

    def _second(self, second: Float32, square: Float32, keep: np.float32, take: np.float32) -> Float32:
        raise NotImplementedError


class FedAdam(_Adaptive):
    def _second(self, second: Float32, square: Float32, keep: np.float32, take: np.float32) -> Float32:
        kept: Float32 = second * keep
        kept += square * take
        return kept


class FedYogi(_Adaptive):
    def _second(self, second: Float32, square: Float32, keep: np.float32, take: np.float32) -> Float32:
        moved: Float32 = np.sign(second - square)
        moved *= square
        moved *= take
        return second - moved
