"""Scheduling and merging."""

from __future__ import annotations

from topology.plan import PolicyPlan
from topology.schema import Topology


def compile_policy(topology: Topology) -> PolicyPlan:
    given = topology.policy
    return PolicyPlan(
        kind=given.kind,
        cohort=given.cohort if given.cohort is not None else len(topology.device_names),
        over_select=given.over_select,
        deadline_s=given.deadline,
        quorum=given.quorum,
        server_lr=given.server_lr,
    )
