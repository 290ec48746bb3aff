"""Faults: everything random is drawn here, before the run."""

from __future__ import annotations

from topology.faults import plans_of
from topology.plan import FaultPlan
from topology.schema import Topology


def compile_faults(topology: Topology) -> tuple[FaultPlan, ...]:
    return tuple(plan for index in range(len(topology.faults)) for plan in plans_of(topology, index))
