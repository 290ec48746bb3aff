"""Learning rates that change: a factor by round (synchronous) or by version (asynchronous), counted from
0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from msgspec import Struct


class Schedule(Struct, frozen=True, kw_only=True):
    """`period`: rounds or versions; what it means depends on `kind` (see SCHEDULES)."""

    kind: str = "constant"
    factor: float = 0.5
    period: int = 10
    warmup: int = 0

    def rate(self, lr: float, index: int) -> float:
        """The learning rate of round or version `index`."""
        if self.kind not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.kind!r}: choose one of {', '.join(sorted(SCHEDULES))}")
        if index < self.warmup:
            return lr * (index + 1) / (self.warmup + 1)
        return lr * SCHEDULES[self.kind](self, index - self.warmup)


SCHEDULES: dict[str, Callable[[Schedule, int], float]] = {
    "constant": lambda s, i: 1.0,
    # × factor every `period`
    "step": lambda s, i: float(s.factor ** (i // max(1, s.period))),
    # × factor per `period`, smoothly
    "exponential": lambda s, i: float(s.factor ** (i / max(1, s.period))),
    # from 1 to `factor` along half a cosine of length `period`
    "cosine": lambda s, i: (
        s.factor + (1 - s.factor) * (1 + math.cos(math.pi * min(1, i / max(1, s.period)))) / 2
    ),
    # 1/√(1 + i/period): what convergence proofs of local SGD ask for
    "inverse_sqrt": lambda s, i: 1.0 / math.sqrt(1.0 + i / max(1, s.period)),
}
