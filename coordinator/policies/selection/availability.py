"""availability: devices that deliver and have the charge for it come more often.

Each is drawn in proportion to its charge (1 on mains or plugged in) times the share of its tasks that brought an
update, (delivered + 1) / (delivered + lost + 1). A device below `charge_min` that is not plugged in is passed over as
long as others are free; when they are not enough those with the most charge come first, for a round needs its cohort.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from coordinator.policies.selection.base import AgentView, draw
from topology.plan import SelectionPlan


class Availability:
    def __init__(self, plan: SelectionPlan) -> None:
        self._charge_min = plan.charge_min

    def choose(self, seen: Sequence[AgentView], count: int, fleet: int, rng: Random) -> list[str]:
        low = [view for view in seen if not view.plugged and view.charge < self._charge_min]
        weights = {view.name: _charge(view) * reliability(view) for view in seen if view not in low}
        low.sort(key=lambda view: (-view.charge, view.name))
        return (draw(weights, count, rng) + [view.name for view in low])[:count]


def _charge(view: AgentView) -> float:
    return 1.0 if view.plugged else view.charge


def reliability(view: AgentView) -> float:
    """1 before anything is known."""
    return (view.delivered + 1) / (view.delivered + view.lost + 1)
