"""Faults: their targets picked, their triggers parsed."""

from __future__ import annotations

import random

from topology.plan import FaultPlan, Trigger
from topology.schema import Topology


def compile_faults(topology: Topology) -> tuple[FaultPlan, ...]:
    """Targets are picked by a generator of each fault's own, so that adding one does not move the others."""
    names = topology.device_names
    plans = []
    for index, fault in enumerate(topology.faults, start=1):
        rng = random.Random(f"edgerig/{topology.seed}/fault/{index}")
        trigger = (
            Trigger(at_s=fault.at)
            if fault.when is None
            else Trigger(round=fault.when.round, state=fault.when.state)
        )
        plans.append(
            FaultPlan(
                id=f"{fault.kind}-{index}",
                kind=fault.kind,
                trigger=trigger,
                targets=tuple(fault.spec.targets(names, rng)),
                heal_after_s=fault.heal_after,
                params=fault.spec.params(),
            )
        )
    return tuple(plans)
