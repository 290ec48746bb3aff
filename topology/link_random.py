"""The random parts of a link, seeded: deviations of the delay, and which packets are lost. Pure.

Used by whatever shapes a link in user space (`emulation.links.delay_line`, `emulation.links.rate_clock`), so that a
kind of jitter or loss means the same under each of them. A new kind of jitter is one function and one line in JITTER.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

from topology.plan import Bursts, JitterKind

PARETO_SHAPE = 3.0  # of iproute2's own table (tc/pareto.c), the one netem's users know
# Cut where iproute2's table of 16-bit numbers ends: at four of its units. Without a cut the sample deviation of a
# tail this heavy does not settle within any measurement.
PARETO_CUT = 4.0


def _pareto_moments() -> tuple[float, float]:
    """Mean and standard deviation of X = U^(-1/a), X cut at `top`: closed forms of the two integrals."""
    shape, top = PARETO_SHAPE, _PARETO_TOP
    beyond = top**-shape
    first = shape / (shape - 1) * (1 - top ** (1 - shape)) + top * beyond
    second = shape / (shape - 2) * (1 - top ** (2 - shape)) + top * top * beyond
    return first, math.sqrt(second - first * first)


_PARETO_TOP = PARETO_SHAPE / (PARETO_SHAPE - 1) + PARETO_CUT * 0.75  # the table is (X - mean) · 4/3
_PARETO_MEAN, _PARETO_DEVIATION = _pareto_moments()


def normal(rng: random.Random) -> float:
    return rng.gauss(0.0, 1.0)


def uniform(rng: random.Random) -> float:
    return (2.0 * rng.random() - 1.0) * math.sqrt(3.0)


def pareto(rng: random.Random) -> float:
    """Mostly a little early, seldom very late: at least -0.8, at most 4.9 deviations."""
    value: float = (1.0 - rng.random()) ** (-1.0 / PARETO_SHAPE)
    return (min(value, _PARETO_TOP) - _PARETO_MEAN) / _PARETO_DEVIATION


# Each with mean 0 and standard deviation 1.
JITTER: Mapping[JitterKind, Callable[[random.Random], float]] = {
    "normal": normal,
    "pareto": pareto,
    "uniform": uniform,
}

# Their medians, for whoever measures a delay by the median: a pareto deviation is negative more often than not.
MEDIANS: Mapping[JitterKind, float] = {
    "normal": 0.0,
    "pareto": (2 ** (1 / PARETO_SHAPE) - _PARETO_MEAN) / _PARETO_DEVIATION,
    "uniform": 0.0,
}


def mean_loss(bursts: Bursts) -> float:
    """Share of packets a Gilbert–Elliott chain loses in the long run."""
    return (bursts.p * bursts.bad + bursts.r * bursts.good) / (bursts.p + bursts.r)


def loss_variance(loss: float, bursts: Bursts | None) -> float:
    """Variance of the number of lost packets, per packet, over many: of a binomial, and for bursts with what
    neighbours share (states of the chain correlate by (1 - p - r)^k over k packets).
    """
    if bursts is None:
        return loss * (1 - loss)
    in_bad = bursts.p / (bursts.p + bursts.r)
    shared = (bursts.bad - bursts.good) ** 2 * in_bad * (1 - in_bad)
    correlation = 1 - bursts.p - bursts.r
    mean = mean_loss(bursts)
    return mean * (1 - mean) + 2 * shared * correlation / (1 - correlation)


class Losses:
    """Which packets are lost, by their order; the same seed loses the same ones.

    Random: one draw per packet. Bursts: two, in netem's order (sch_netem.c, `loss_gilb_ell`): first whether the state
    changes for the packets after this one, then whether this one is lost in the state it met.
    """

    def __init__(self, seed: str) -> None:
        self._rng = random.Random(f"{seed}/loss")
        self._bad = False

    def lost(self, loss: float, bursts: Bursts | None = None) -> bool:
        if bursts is None:
            return loss > 0 and self._rng.random() < loss
        chance = bursts.bad if self._bad else bursts.good
        if self._rng.random() < (bursts.r if self._bad else bursts.p):
            self._bad = not self._bad
        return self._rng.random() < chance
