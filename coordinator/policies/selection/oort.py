"""oort: devices whose data teach the model most per second (Lai et al., OSDI 2021, algorithm 1 and section 4).

    utility = (Û + √(0.1 · ln R / L)) · (T / t)^α   where the last factor is 1 for t ≤ T

Û is the statistical utility of a device's last update (`statistical_utility`), clipped at the 95th percentile and
scaled to [0, 1]; R the round, L the round of that update, so that a device long unused gains; t how long a task is
expected to take there, α the option `penalty`. Of a cohort ε is *exploration*: devices without an update yet, those
that lost fewer tasks more often; ε is `exploration` in round 1 and falls by 2 % a round to 0.2. The others are drawn,
in proportion to their utility, among those that have 95 % of what the cohort's last place needs.

The *pacer* sets T, the preferred time of a task: the 30th percentile of what the devices at hand are expected to need,
and 5 points more whenever `window` versions brought less utility than the `window` before them (T is then too tight:
the fast have nothing new to tell). It follows from the recorded versions alone, so a restart finds it again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from random import Random

from coordinator.policies.selection.base import AgentView, Fleet, draw
from topology.plan import SelectionPlan

EXPLORATION_DECAY, EXPLORATION_MIN = 0.98, 0.2
CUT_OFF = 0.95  # section 4.4: c
CLIP_PERCENT = 95.0
PACER_PERCENT, PACER_STEP = 30.0, 5.0  # as in the authors' code (round_threshold, pacer_delta)


class Oort:
    def __init__(self, plan: SelectionPlan) -> None:
        self._exploration, self._penalty, self._window = plan.exploration, plan.penalty, plan.window

    def choose(self, seen: Sequence[AgentView], count: int, fleet: int, rng: Random) -> list[str]:
        count, known = min(count, len(seen)), fleet if isinstance(fleet, Fleet) else Fleet(fleet)
        tried = [view for view in seen if view.utility is not None]
        fresh = {view.name: 1.0 / (1 + view.lost) for view in seen if view.utility is None}
        exploring = min(round(self.exploration(known.round) * count), len(fresh))
        exploring = max(exploring, count - len(tried))
        chosen = self._exploit(tried, count - exploring, known, rng)
        return chosen + draw(fresh, exploring, rng)

    def exploration(self, round_: int) -> float:
        """ε of a round, counted from 1."""
        least = min(EXPLORATION_MIN, self._exploration)
        return max(least, self._exploration * EXPLORATION_DECAY ** (round_ - 1))

    def _exploit(self, tried: list[AgentView], count: int, fleet: Fleet, rng: Random) -> list[str]:
        if count == 0:
            return []
        worth = self.utilities(tried, fleet)
        needed = sorted(worth.values(), reverse=True)[count - 1]
        return draw({name: u for name, u in worth.items() if u >= CUT_OFF * needed}, count, rng)

    def utilities(self, tried: Sequence[AgentView], fleet: Fleet) -> dict[str, float]:
        """Of devices that have sent an update."""
        raw = [view.utility or 0.0 for view in tried]
        low, high = min(raw), percentile(raw, CLIP_PERCENT)
        preferred_s = percentile([view.timings.expected_s for view in tried], self.pace(fleet.gains))
        worth = {}
        for view, utility in zip(tried, raw, strict=True):
            scaled = (min(utility, high) - low) / (high - low) if high > low else 1.0
            unused = math.sqrt(0.1 * math.log(max(fleet.round, 1)) / max(view.used_round, 1))
            worth[view.name] = (scaled + unused) * self._in_time(view.timings.expected_s, preferred_s)
        return worth

    def _in_time(self, expected_s: float, preferred_s: float) -> float:
        return 1.0 if expected_s <= preferred_s else float((preferred_s / expected_s) ** self._penalty)

    def pace(self, gains: Sequence[float]) -> float:
        """The percentile of T, after whole windows of versions."""
        sums = [
            math.fsum(gains[start : start + self._window])
            for start in range(0, len(gains) - self._window + 1, self._window)
        ]
        slower = sum(later < before for before, later in pairwise(sums))
        return min(100.0, PACER_PERCENT + PACER_STEP * slower)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]
