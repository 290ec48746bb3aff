"""SCAFFOLD, the server's side (Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1, option II).

    x += server_lr · mean uᵢ           c += |S|/N · mean Δcᵢ          N: all devices of the run

Both means are unweighted, as in the paper: with weights by samples in one and not in the other, the corrections
c − cᵢ would not cancel over the devices. `learning.scaffold` is the device's side; Δcᵢ comes with the update.
"""

from __future__ import annotations

import numpy as np

from coordinator.merges.base import Item, Mean, MergeSpec, State, Step
from wire.codecs import Decoded
from wire.codecs.arrays import Float32

CONTROL = "control"  # the name of c in the server state


class Scaffold:
    def __init__(self, n: int, spec: MergeSpec) -> None:
        self._updates, self._controls = Mean(n), Mean(n)
        self._server_lr, self._agents, self._count = spec.server_lr, spec.agents, 0

    def add(self, update: Decoded, item: Item) -> None:
        if item.control is None:
            raise ValueError(f"the update of {item.task or 'a task'} came without its control variate")
        self._updates.add(update, item.factor, 1.0)
        self._controls.add(item.control, 1.0, 1.0)
        self._count += 1

    def finish(self, master: Float32, state: State) -> Step:
        moved = self._updates.times(self._server_lr)
        moved += master
        control = self._controls.times(self._count / self._agents)
        control += state.get(CONTROL, np.float32(0.0))
        return Step(moved, {CONTROL: control})
