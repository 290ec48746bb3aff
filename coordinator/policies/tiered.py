"""Tiers of speed (TiFL; Chai et al., HPDC 2020, section 4): synchronous rounds whose cohort is of one class.

Nobody in a round waits for somebody ten times as slow, for all of a round are about equally fast. The tiers follow from
what devices have shown (`Timings`), sorted by the time they are expected to need and cut into equal parts, anew for
every round; devices nothing is known of are profiled first. Which tier is next is decided by what each has been given:
the one whose devices were passed over longest, so every tier gets rounds in proportion to its devices (TiFL's credits),
and the data of the slow are not lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from coordinator.policies.base import Size
from coordinator.policies.selection import AgentView
from coordinator.policies.synchronous import Synchronous
from topology.plan import PolicyPlan


class Tiered(Synchronous):
    def __init__(self, plan: PolicyPlan) -> None:
        self._tiers = plan.tiers
        super().__init__(plan)
        self.quorum = 1  # one device of a tier is a round

    def wanted(self, agents: int) -> int:
        return agents  # tiers are cut from the whole fleet

    def choose(self, seen: Sequence[AgentView], fleet: int, rng: Random) -> list[str]:
        unknown = [view for view in seen if not view.timings.known]
        tier = unknown or max(tiers_of(seen, self._tiers), key=_neglect, default=[])
        return self.selection.choose(tier, self.target, fleet, rng)

    def refill(self, seen: Sequence[AgentView], count: int, fleet: int, rng: Random) -> list[str]:
        """The fastest that are free: a replacement has less time than the others had."""
        fastest = sorted(seen, key=lambda view: (view.timings.expected_s, view.name))
        return [view.name for view in fastest[:count]]

    def size(self, cohort: int) -> Size:
        target = min(self.target, cohort) or 1
        return Size(target, max(1, math.ceil(self._quorum_share * target - 1e-9)))


def tiers_of(seen: Sequence[AgentView], count: int) -> list[list[AgentView]]:
    """Equal parts, fastest first; fewer when there are fewer devices than tiers."""
    ordered = sorted(seen, key=lambda view: (view.timings.expected_s, view.name))
    size = math.ceil(len(ordered) / count) or 1
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _neglect(tier: list[AgentView]) -> tuple[float, str]:
    """How long its devices were passed over, on average; the name decides between equals, in every run alike."""
    return sum(view.passed_over for view in tier) / len(tier), tier[0].name
