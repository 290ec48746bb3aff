"""Schedules, by the `kind` of the topology's policy. A schedule is pure: it looks at a view and says what to do."""

from __future__ import annotations

from collections.abc import Callable

from coordinator.policies.base import Close, Decision, Extend, Fail, Policy, Replace, RoundView, Wait
from coordinator.policies.synchronous import Synchronous
from topology.plan import PolicyPlan

POLICIES: dict[str, Callable[[PolicyPlan], Policy]] = {"synchronous": Synchronous}

__all__ = [
    "POLICIES",
    "Close",
    "Decision",
    "Extend",
    "Fail",
    "Policy",
    "Replace",
    "RoundView",
    "Wait",
    "make_policy",
]


def make_policy(plan: PolicyPlan) -> Policy:
    """Raises ValueError for a kind that nobody registered."""
    factory = POLICIES.get(plan.kind)
    if factory is None:
        raise ValueError(f"policy kind {plan.kind!r} is not known here; known: {', '.join(sorted(POLICIES))}")
    return factory(plan)
