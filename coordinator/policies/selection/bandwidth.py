"""bandwidth: drawn in proportion to the speed of a device's transfers, as measured (all of a task but its training).

Devices nothing is known of count as the fastest: they are tried early, and then known. A task that ran out of time
halves what its device is taken to do, until one comes in again.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from coordinator.policies.selection.base import AgentView, draw
from topology.plan import SelectionPlan

TRANSFER_S_MIN = 0.01  # below it is the clock's noise


class Bandwidth:
    def __init__(self, plan: SelectionPlan | None = None) -> None:
        """It has no options."""

    def choose(self, seen: Sequence[AgentView], count: int, fleet: int, rng: Random) -> list[str]:
        speeds = {
            view.name: 1.0 / max(view.timings.transfer.mean_s, TRANSFER_S_MIN)
            for view in seen
            if view.timings.transfer.count
        }
        fastest = max(speeds.values(), default=1.0)
        weights = {view.name: speeds.get(view.name, fastest) * 0.5**view.timings.timeouts for view in seen}
        return draw(weights, count, rng)
