"""Buffered asynchronous aggregation (FedBuff; Nguyen et al., AISTATS 2022, algorithm 1).

`concurrency` agents train at any time; whoever is done gets the newest version and goes on. Updates wait in a buffer,
and as soon as `buffer` of them are there they make a version, in the order in which they came. Each is a difference to
the version that *its* agent trained on (APPFL takes it against the newest, FedScale averages whole weights): how many
versions ago that was is its staleness.

Nobody waits for anybody: a slow agent's update counts when it comes, a dead one is out of time by its own deadline and
somebody else trains meanwhile. There is no deadline of a version, but a bound all the same: when nothing comes at all
for as long as a task may take with all extensions, the run has failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from coordinator.policies.base import Close, Common, Decision, Fail, Replace, RoundView, Size, Wait
from coordinator.policies.deadlines import make_deadline
from coordinator.policies.selection import AgentView
from topology.plan import PolicyPlan


class Buffered(Common):
    carries = True
    streams = True
    quorum = 1

    def __init__(self, plan: PolicyPlan, *, extensions_max: int = 3) -> None:
        super().__init__(plan, make_deadline(plan))
        self._concurrency, self._buffer = plan.concurrency, plan.buffer
        self._patience_s = (1 + extensions_max) * plan.deadline_s

    def wanted(self, agents: int) -> int:
        return min(self._concurrency, agents)

    def choose(self, seen: Sequence[AgentView], fleet: int, rng: Random) -> list[str]:
        """Nobody by itself: `decide` fills the free places, of the first round as of all others."""
        return []

    def size(self, cohort: int) -> Size:
        return Size(self._buffer, self._buffer)

    def decide(self, view: RoundView, now: float) -> Decision:
        if view.mergeable >= view.target:
            return Close("complete")
        free = min(self._concurrency - view.expected - view.carried, view.spare)
        if free > 0:
            return Replace(free)
        patience_ends = view.quiet_since + self._patience_s
        if now >= patience_ends and not view.receiving:
            return Fail(
                f"no update for {now - view.quiet_since:.0f} s; {view.mergeable} of {view.target} are there"
            )
        silences = (now - view.quiet_since) // view.deadline_s
        new_attempts = view.quiet_since + (silences + 1) * view.deadline_s
        return Wait(max(min(patience_ends, new_attempts), now + 1.0))
