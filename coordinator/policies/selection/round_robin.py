"""round_robin: whoever has waited longest, in tasks given to others. Who is busy or away keeps the place."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from coordinator.policies.selection.base import AgentView
from topology.plan import SelectionPlan


class RoundRobin:
    def __init__(self, plan: SelectionPlan | None = None) -> None:
        """It has no options."""

    def choose(self, seen: Sequence[AgentView], count: int, fleet: int, rng: Random) -> list[str]:
        longest = sorted(seen, key=lambda view: (-view.passed_over, view.name))
        return [view.name for view in longest[:count]]
