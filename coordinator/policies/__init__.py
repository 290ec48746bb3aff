"""Schedules, by the `kind` of the topology's policy. A schedule is pure: it looks at a view and says what to do."""

from __future__ import annotations

from collections.abc import Callable

from coordinator.policies.asynchronous import Asynchronous
from coordinator.policies.base import (
    Close,
    Decision,
    Extend,
    Fail,
    GroupView,
    Policy,
    Replace,
    RoundView,
    Size,
    Wait,
)
from coordinator.policies.buffered import Buffered
from coordinator.policies.deadlines import Timings
from coordinator.policies.fedat import FedAT
from coordinator.policies.selection import AgentView, Fleet
from coordinator.policies.synchronous import Synchronous
from coordinator.policies.tiered import Tiered
from topology.plan import PolicyPlan

POLICIES: dict[str, Callable[[PolicyPlan], Policy]] = {
    "synchronous": Synchronous,
    "buffered": Buffered,
    "asynchronous": Asynchronous,
    "tiered": Tiered,
    "fedat": FedAT,
}

__all__ = [
    "POLICIES",
    "AgentView",
    "Close",
    "Decision",
    "Extend",
    "Fail",
    "FedAT",
    "Fleet",
    "GroupView",
    "Policy",
    "Replace",
    "RoundView",
    "Size",
    "Timings",
    "Wait",
    "make_policy",
]


def make_policy(plan: PolicyPlan) -> Policy:
    """Raises ValueError for a kind that nobody registered."""
    factory = POLICIES.get(plan.kind)
    if factory is None:
        raise ValueError(f"policy kind {plan.kind!r} is not known here; known: {', '.join(sorted(POLICIES))}")
    return factory(plan)
