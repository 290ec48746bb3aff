"""random: uniform without replacement (McMahan et al., AISTATS 2017, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from coordinator.policies.selection.base import AgentView
from topology.plan import SelectionPlan


class RandomSelection:
    def __init__(self, plan: SelectionPlan | None = None) -> None:
        """It has no options."""

    def choose(self, seen: Sequence[AgentView], count: int, fleet: int, rng: Random) -> list[str]:
        # Sorted first: the order in which agents happened to connect must not decide a seeded choice.
        names = sorted(view.name for view in seen)
        return rng.sample(names, min(count, len(names)))
