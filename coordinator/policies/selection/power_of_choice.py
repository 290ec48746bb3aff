"""power_of_choice: the devices with the highest loss of d candidates (Cho, Wang and Joshi, 2020, π_pow-d, section 3.1).

1. d *candidates* are drawn without replacement, each with a chance in proportion to its samples (p_k).
2. Each is asked for its loss of the current version on its own data: a probe, `coordinator.probing`. As in the paper's
   cheaper π_cpow-d it may be of some samples only, `probe_samples`.
3. The m with the highest loss are chosen; between equals the name decides.

A candidate that has not answered by `probe_deadline` is passed over. When fewer than m have answered, others follow
that were never asked, drawn like candidates. Losses are said by devices: whoever lies high is chosen often, like in
every rule that goes by losses; what its update may do then is the merge's matter (`merge: norm_bound` and the like).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from coordinator.policies.selection.base import AgentView, draw
from topology.plan import SelectionPlan


class PowerOfChoice:
    def __init__(self, plan: SelectionPlan) -> None:
        self._d, self.probe_samples, self.probe_deadline_s = (
            plan.candidates,
            plan.probe_samples,
            plan.probe_deadline_s,
        )

    def wanted(self, count: int) -> int:
        return max(self._d or 2 * count, count)

    def candidates(self, seen: Sequence[AgentView], count: int, fleet: int, rng: Random) -> list[str]:
        """Whom to ask when `count` are to be chosen."""
        return _by_samples(seen, self.wanted(count), rng)

    def choose(self, seen: Sequence[AgentView], count: int, fleet: int, rng: Random) -> list[str]:
        known = [view for view in seen if view.loss is not None]
        known.sort(key=lambda view: (-(view.loss or 0.0), view.name))
        first = [view.name for view in known[:count]]
        rest = [view for view in seen if view.loss is None]
        return first + _by_samples(rest, count - len(first), rng)


def _by_samples(seen: Sequence[AgentView], count: int, rng: Random) -> list[str]:
    return draw({view.name: float(view.samples) for view in seen}, count, rng)
