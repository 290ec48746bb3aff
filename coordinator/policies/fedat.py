"""FedAT (Chai et al., SC 2021, algorithm 1): synchronous within a tier of speed, asynchronous between tiers.

Every tier has a wave of tasks of its own under way. When nobody of a wave is waited for any more its updates make a
version, and the tier begins its next wave at once, on the newest version; no tier waits for another. Tiers that are
fast would make nearly all versions, so a version of tier k counts with the share of versions that its *mirror* had:

    c_k = (T_{M+1−k} + 1) / (T_1 + … + T_M + M)        T_j: versions of tier j so far, this one included

so the slowest counts as much as the fastest is often. The paper has T_{M+1−k} / T; the ones keep a tier from counting
nothing before its mirror has made a version, start all tiers alike, and vanish with time. All c_k sum to 1.

In this project's terms (versions are merges of updates onto the version before; damping is absolute):

    x ← x + server_lr · Σ nᵢ·s(τᵢ)·c_k·uᵢ / Σ nᵢ        over the updates of the wave

The factor of every update is s(τᵢ)·c_k, fixed when the version is made and recorded, so recovery and audit need no
tiers. The paper's server keeps one model W_m for each tier and publishes Σ c_m·W_m. When tier k renews its own, that
moves by c_k·(W_k − W_k') and by the change of the c_m; here it moves by c_k times what the wave has learned from the
version that it was given. Left out are the pull towards the models that other tiers sent long ago, and M model copies
on the server; for M = 1 both are FedAvg. As c_k is about 1/M, a `server_lr` of M gives a whole step where tiers are
alike.

The first wave is of everybody, makes version 1 as FedAvg does, and shows how fast each is (those that did not make it
are of the slowest): then tiers are cut. They are cut again when somebody has become another device (a thermal fault,
another link), for one slow device holds up every wave of a fast tier: looked at now and then (`due`), and not for a
rank lost to jitter (`recut`). T_j goes on: it is of the j-th fastest tier, whoever is in it, and c_k asks how often the
mirror comes. Tiers are durable (`JournalMemo`), as is all that they are cut from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random

from coordinator.policies.base import Close, Common, Decision, Fail, GroupView, Replace, RoundView, Size, Wait
from coordinator.policies.deadlines import make_deadline
from coordinator.policies.selection import AgentView
from topology.plan import PolicyPlan

RECUT_WAVES = 2  # versions of every tier on average: time enough to show that one has become slow
LEFT_TIMES = 1.5  # a throttled CPU or a worse link is more; a device's own times vary by less
PROFILING = 0  # the group of everybody before tiers are cut; tiers count from 1, the fastest


class FedAT(Common):
    carries = True
    streams = True
    grouped = True
    quorum = 1

    def __init__(self, plan: PolicyPlan, *, extensions_max: int = 3) -> None:
        super().__init__(plan, make_deadline(plan))
        self.tiers, self._cohort = plan.tiers, plan.cohort
        self._patience_s = (1 + extensions_max) * plan.deadline_s

    def wanted(self, agents: int) -> int:
        return agents  # tiers are cut from the whole fleet

    def choose(self, seen: Sequence[AgentView], fleet: int, rng: Random) -> list[str]:
        """Nobody by itself: `decide` begins the waves."""
        return []

    def size(self, cohort: int) -> Size:
        return Size(self._cohort, 1)

    def decide(self, view: RoundView, now: float) -> Decision:
        idle = [group for group in view.groups if group.expected == 0]
        for group in idle:
            if group.mergeable:
                return Close(_name(group.group), group.group)
        for group in idle:
            if group.spare:
                return Replace(self._asked(group), group.group)
        return self._wait(view, now)

    def _asked(self, group: GroupView) -> int:
        return group.spare if group.group == PROFILING else min(self._cohort, group.spare)

    def _wait(self, view: RoundView, now: float) -> Decision:
        patience_ends = view.quiet_since + self._patience_s
        if now >= patience_ends and not view.receiving:
            return Fail(f"no update of any tier for {now - view.quiet_since:.0f} s")
        silences = (now - view.quiet_since) // view.deadline_s
        new_attempts = view.quiet_since + (silences + 1) * view.deadline_s
        return Wait(max(min(patience_ends, new_attempts), now + 1.0))

    def cut(self, seen: Sequence[AgentView]) -> dict[str, int]:
        """Everybody's tier: equal parts by the time a task is expected to take, unknown ones last."""
        ordered = sorted(seen, key=lambda v: (_expected_s(v), v.name))
        return {view.name: 1 + place * self.tiers // len(ordered) for place, view in enumerate(ordered)}

    def due(self, merges: Mapping[int, int]) -> bool:
        """Whether it is looked at again who is how fast, with `merges` the T_j so far."""
        return sum(merges.values()) % (RECUT_WAVES * self.tiers) == 0

    def recut(self, of: dict[str, int], seen: Sequence[AgentView]) -> dict[str, int]:
        """`of`, unless a device would change its tier and is far from all that are in its old one then."""
        new = self.cut(seen)
        times: dict[int, list[float]] = {}
        for view in seen:
            times.setdefault(new[view.name], []).append(_expected_s(view))
        spans = {tier: (min(found), max(found)) for tier, found in times.items()}
        moved = (view for view in seen if new[view.name] != of[view.name])
        return new if any(_is_far(_expected_s(view), *spans[of[view.name]]) for view in moved) else of

    def share(self, group: int, merges: Mapping[int, int]) -> float:
        """c_k, with `merges` the T_j so far."""
        if group == PROFILING:
            return 1.0
        mirror = merges.get(self.tiers + 1 - group, 0)
        return (mirror + 1) / (sum(merges.values()) + self.tiers)


def _expected_s(view: AgentView) -> float:
    return view.timings.expected_s if view.timings.compute.count else math.inf


def _is_far(seconds: float, fastest_s: float, slowest_s: float) -> bool:
    return seconds > LEFT_TIMES * slowest_s or seconds * LEFT_TIMES < fastest_s


def _name(group: int) -> str:
    return "profiled" if group == PROFILING else f"tier {group}"
