"""flap: the link is cut and mended again and again, half of `period_s` each, starting cut."""

from __future__ import annotations

from emulation.faults.base import Tools
from emulation.faults.partition import Partition, ways_of
from topology.plan.faults import FLAP_S_MIN


class Flap(Partition):
    kind = "flap"

    def __init__(self) -> None:
        self._cut: dict[str, bool] = {}

    def apply(self, tools: Tools, target: str) -> None:
        super().apply(tools, target)
        self._cut[target] = True

    def tick(self, tools: Tools, target: str, since_s: float) -> None:
        half = max(FLAP_S_MIN, tools.params.period_s) / 2
        wanted = int(since_s / half) % 2 == 0
        if wanted == self._cut.get(target):
            return
        self._cut[target] = wanted
        if wanted:
            tools.links.cut(target, ways_of(tools))
        else:
            tools.links.mend(target)

    def heal(self, tools: Tools, target: str) -> None:
        self._cut.pop(target, None)
        super().heal(tools, target)
