"""How updates become the next version."""

from __future__ import annotations

from topology.plan import MergePlan
from topology.schema import Topology


def compile_merge(topology: Topology) -> MergePlan:
    return MergePlan(kind=topology.merge.kind)
