"""How updates become the next version."""

from __future__ import annotations

from topology.plan import MergePlan
from topology.schema import Topology


def compile_merge(topology: Topology) -> MergePlan:
    given = topology.merge.model_dump()
    return MergePlan(**{key: value for key, value in given.items() if value is not None})
