"""Synchronous rounds: a random cohort, a deadline, a quorum (FedAvg; McMahan et al., AISTATS 2017, algorithm 1).

A round asks `ceil(cohort * over_select)` agents and closes

* `complete`: as soon as `cohort` updates are in;
* `absent`: when a quorum is in and nobody who is still here owes one: an agent that is away holds nobody up
  (FedML's last will only popped a list and the round went on waiting);
* `deadline`: at the deadline with a quorum.

Without a quorum at the deadline it waits on, one more deadline at a time, at most `extensions_max` times; then the
run has failed: a round never closes with less than its quorum, and never waits for ever.
A round that lacks agents (some failed, or were away when it opened) gives free ones a task, if enough of the deadline
is left to make it, and if that holds up nobody: either no update is in yet, or without them there would be no quorum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from coordinator.policies.base import Close, Decision, Extend, Fail, Replace, RoundView, Wait
from topology.plan import PolicyPlan


class Synchronous:
    """`extensions_max` and `replace_share` as in `coordinator.config`."""

    def __init__(self, plan: PolicyPlan, *, extensions_max: int = 3, replace_share: float = 0.25) -> None:
        self.target = plan.cohort
        # A quorum of 0 would commit versions that nobody trained.
        self.quorum = max(1, math.ceil(plan.quorum * plan.cohort - 1e-9))
        self.deadline_s = plan.deadline_s
        self._asked = max(plan.cohort, math.ceil(plan.cohort * plan.over_select - 1e-9))
        self._extensions_max, self._replace_share = extensions_max, replace_share

    def wanted(self, agents: int) -> int:
        return min(self._asked, agents)

    def select(self, online: Sequence[str], rng: Random) -> list[str]:
        # Sorted first: the order in which agents happened to connect must not decide a seeded choice.
        return rng.sample(sorted(online), self.wanted(len(online)))

    def decide(self, view: RoundView, now: float) -> Decision:
        if view.mergeable >= view.target:
            return Close("complete")
        if now >= view.deadline:
            return self._past_deadline(view, now)
        lacking = self._lacking(view)
        if lacking > 0 and view.deadline - now >= self._replace_share * view.deadline_s:
            return Replace(lacking)
        if view.expected == 0 and view.mergeable >= view.quorum:
            return Close("absent")
        return Wait(view.deadline)

    @staticmethod
    def _lacking(view: RoundView) -> int:
        young = view.mergeable == 0
        wanted = view.target if young else view.quorum
        return min(wanted - view.mergeable - view.expected, view.spare)

    def _past_deadline(self, view: RoundView, now: float) -> Decision:
        if view.mergeable >= view.quorum:
            return Close("deadline")
        if view.extensions < self._extensions_max:
            return Extend(now + view.deadline_s)
        if view.receiving:
            # Complete on our side already; the commit that makes it count is seconds away at most.
            return Wait(now + 1.0)
        return Fail(
            f"round has {view.mergeable} of {view.quorum} updates needed after its deadline of {view.deadline_s:g} s "
            f"and {view.extensions} extensions"
        )
