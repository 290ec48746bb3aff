"""Synchronous rounds: a cohort, a deadline, a quorum (FedAvg; McMahan et al., AISTATS 2017, algorithm 1).

A round asks `ceil(cohort * over_select)` agents and closes

* `complete`: as soon as `cohort` updates are in;
* `absent`: when a quorum is in and nobody who is still here, and within its own deadline, owes one: an agent that is
  away holds nobody up (FedML's last will only popped a list and the round went on waiting);
* `deadline`: at the deadline with a quorum. The deadline of a round is the longest of its cohort's.

Without a quorum at the deadline it waits on, one more deadline at a time, at most `extensions_max` times; then the
run has failed: a round never closes with less than its quorum, and never waits for ever.
A round that lacks agents (some failed, or were away when it opened) gives free ones a task, if enough of the deadline
is left to make it, and if that holds up nobody: either no update is in yet, or without them there would be no quorum.

With `carry_over` the slow are not cancelled when their round closes: they go on, for as long as a round may last with
all its extensions, and what they send goes into the version that is next then, damped by its age. It counts for that
version's quorum, and nobody waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from coordinator.policies.base import Close, Common, Decision, Extend, Fail, Replace, RoundView, Size, Wait
from coordinator.policies.deadlines import make_deadline
from coordinator.policies.selection import AgentView
from coordinator.policies.selection.floor import ProbingFloor
from topology.plan import PolicyPlan


class Synchronous(Common):
    """`extensions_max` and `replace_share` as in `coordinator.config`."""

    def __init__(self, plan: PolicyPlan, *, extensions_max: int = 3, replace_share: float = 0.25) -> None:
        super().__init__(plan, make_deadline(plan))
        self.target = plan.cohort
        self._quorum_share = plan.quorum
        self.quorum = self.size(plan.cohort).quorum
        self._asked = max(plan.cohort, math.ceil(plan.cohort * plan.over_select - 1e-9))
        self._extensions_max, self._replace_share = extensions_max, replace_share
        self.carries = plan.carry_over
        self.carry_s = extensions_max * plan.deadline_s if plan.carry_over else 0.0

    def wanted(self, agents: int) -> int:
        asked = self._asked
        if isinstance(self.selection, ProbingFloor):
            asked = self.selection.wanted(asked)
        return min(asked, agents)

    def candidates(self, seen: Sequence[AgentView], fleet: int, rng: Random) -> list[str]:
        if not isinstance(self.selection, ProbingFloor):
            return []
        return self.selection.candidates(seen, self._asked, fleet, rng)

    def choose(self, seen: Sequence[AgentView], fleet: int, rng: Random) -> list[str]:
        return self.selection.choose(seen, self._asked, fleet, rng)

    def size(self, cohort: int) -> Size:
        # A quorum of 0 would commit versions that nobody trained.
        return Size(self.target, max(1, math.ceil(self._quorum_share * self.target - 1e-9)))

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
