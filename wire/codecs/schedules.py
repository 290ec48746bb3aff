"""How compression changes over a run: warm-up at its start, decay of a residual that has grown old."""

from __future__ import annotations

WARM_UP_FIRST = 0.25  # Lin et al. 2018, section 3.3: 75 % sparsity at first, then exponentially up


def warm_up(fraction: float, round_number: int, rounds: int, first: float = WARM_UP_FIRST) -> float:
    """The fraction to send in `round_number` (from 0): from `first` down to `fraction` after `rounds` rounds."""
    if round_number >= rounds or fraction >= first:
        return fraction
    return float(first * (fraction / first) ** (round_number / rounds))


def aged(versions: int, after: int, factor: float) -> float:
    """What remains of a residual made for a model `versions` versions ago: all of it for `after` versions,
    then `factor` per version. For `ErrorFeedback.decay`.
    """
    return float(factor ** max(0, versions - after))
