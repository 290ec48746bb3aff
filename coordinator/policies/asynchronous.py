"""Asynchronous aggregation (FedAsync; Xie et al., 2019, algorithm 1): every update makes a version.

    x ← x + α·s(τ)·u

with the mixing constant α and the update u as a difference to the version it was trained on; for τ = 0 this is
FedAsync's (1 − α)·x + α·x_new to the letter. α is a constant of the run: it is part of the step recorded with every
version and nothing changes it (Plato multiplies the stored α by s(τ) at every merge, so that 0.9 is 0.0037 after ten
stale ones; Flotilla has no α, so that a fresh update replaces the model).
"""

from __future__ import annotations

import msgspec

from coordinator.policies.buffered import Buffered
from topology.plan import PolicyPlan


class Asynchronous(Buffered):
    def __init__(self, plan: PolicyPlan) -> None:
        super().__init__(msgspec.structs.replace(plan, buffer=1))
        self.merge_lr = plan.server_lr * plan.mixing
