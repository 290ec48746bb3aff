"""The fairness floor under every selection: nobody's share of the tasks falls below `min_share` of an equal one.

An equal share is one task in as many as there are devices. Whoever was passed over for `fleet / min_share` tasks comes
first, longest first, whatever the selection thinks of it; the rest is the selection's. As those before it in that line
are fewer than the fleet, a device that is always free waits for less than `fleet / min_share + fleet` tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from coordinator.policies.selection.base import AgentView, Probes, Selection


class FairnessFloor:
    def __init__(self, inner: Selection, min_share: float = 0.5) -> None:
        self._inner, self._min_share = inner, min_share

    def choose(self, seen: Sequence[AgentView], count: int, fleet: int, rng: Random) -> list[str]:
        first, rest = self._split(seen, count, fleet)
        return first + self._inner.choose(rest, count - len(first), fleet, rng)

    def _split(self, seen: Sequence[AgentView], count: int, fleet: int) -> tuple[list[str], list[AgentView]]:
        starved = [view for view in seen if view.passed_over * self._min_share >= fleet]
        starved.sort(key=lambda view: (-view.passed_over, view.name))
        first = [view.name for view in starved[:count]]
        return first, [view for view in seen if view.name not in first]


class ProbingFloor(FairnessFloor):
    """The same over a selection that goes by losses. Whoever comes first anyway is not asked for one."""

    def __init__(self, inner: Selection, probes: Probes, min_share: float = 0.5) -> None:
        super().__init__(inner, min_share)
        self._probes = probes
        self.probe_samples, self.probe_deadline_s = probes.probe_samples, probes.probe_deadline_s

    def wanted(self, count: int) -> int:
        return self._probes.wanted(count)

    def candidates(self, seen: Sequence[AgentView], count: int, fleet: int, rng: Random) -> list[str]:
        first, rest = self._split(seen, count, fleet)
        if count == len(first):
            return []
        return self._probes.candidates(rest, count - len(first), fleet, rng)
