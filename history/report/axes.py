"""Scales and round tick values for charts."""

from __future__ import annotations

import math
from dataclasses import dataclass

_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps `low`..`high` to `begin`..`end` on the paper, and nothing outside of it."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        share = (value - self.low) / span if span > 0 else 0.0
        return self.begin + min(max(share, 0.0), 1.0) * (self.end - self.begin)


def ticks(high: float, wanted: int = 6) -> list[float]:
    """Round values from 0 to at most `high`, about `wanted` of them."""
    if not (high > 0 and math.isfinite(high)):
        return [0.0]
    rough = high / wanted
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(nice * magnitude for nice in _NICE if nice * magnitude >= rough * 0.999)
    return [index * step for index in range(int(high / step + 1e-9) + 1)]


def time_ticks(high_s: float, wanted: int = 8) -> list[float]:
    """As `ticks`, in steps a clock has."""
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200)
    step = next((step for step in steps if high_s / step <= wanted), None)
    if step is None or high_s < 1:
        return ticks(high_s, wanted)
    return [float(index * step) for index in range(int(high_s / step + 1e-9) + 1)]
