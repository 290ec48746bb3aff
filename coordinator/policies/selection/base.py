"""What a selection sees, and drawing without replacement, which most of them do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Protocol

from msgspec import Struct

from coordinator.policies.deadlines import Timings


class AgentView(Struct, frozen=True, kw_only=True):
    """A device that could be given a task now."""

    name: str
    timings: Timings = Timings()
    passed_over: int = 0  # tasks opened since its last one
    merged: int = 0  # updates of it that a version has
    charge: float = 1.0  # of its battery, as it last said; 1 on mains
    plugged: bool = True
    delivered: int = 0  # updates of it that came in
    lost: int = 0  # its tasks that failed, ran out of time, or ended while it was away
    utility: float | None = None  # of its last update, see `statistical_utility`; None before the first
    used_round: int = 0  # the round of that update
    samples: int = 0  # of its own data, as it last said
    loss: float | None = None  # of the current version on them, where a probe asked for it


class Fleet(int):
    """Devices of the run: a number, which is all that most selections need, and what is known of the run beside it.

    `round`: the version that is being made, from 1; `gains`: summed utility of the updates of every version so far.
    """

    round: int
    gains: tuple[float, ...]

    def __new__(cls, devices: int, round_: int = 1, gains: tuple[float, ...] = ()) -> Fleet:
        fleet = super().__new__(cls, devices)
        fleet.round, fleet.gains = round_, gains
        return fleet


class Selection(Protocol):
    def choose(self, seen: Sequence[AgentView], count: int, fleet: int, rng: Random) -> list[str]:
        """`count` of them, or all when there are fewer, in the order of their tasks.

        `fleet`: devices of the run; the core gives a `Fleet`.
        """


class Probes(Protocol):
    """What a selection has beside `choose` when it goes by losses of the current version."""

    probe_samples: int  # at most so many of a device's own
    probe_deadline_s: float | None  # None: as long as a task may take

    def wanted(self, count: int) -> int:
        """How many it asks when `count` are to be chosen."""

    def candidates(self, seen: Sequence[AgentView], count: int, fleet: int, rng: Random) -> list[str]:
        """Whom to ask for its loss when `count` are to be chosen."""


LOSS_MAX = 1e6  # no report of one device makes all others' utilities vanish beside it


def statistical_utility(samples: int, loss: float | None) -> float:
    """|B| · loss. Oort (section 4.1) takes |B| · √(mean of squared losses of the samples); devices report the mean
    loss, which is that root's lower bound.
    """
    if loss is None or not math.isfinite(loss):
        return 0.0
    return samples * clipped_loss(loss)


def clipped_loss(loss: float) -> float:
    return min(max(loss, 0.0), LOSS_MAX)


WEIGHT_MIN = 1e-12  # of 0: drawn when nobody else is left


def draw(weights: Mapping[str, float], count: int, rng: Random) -> list[str]:
    """`count` names without replacement, each next one in proportion to its weight (Efraimidis and Spirakis, 2006).

    Sorted first: the order in which agents happened to connect must not decide a seeded choice.
    """
    keys = {
        name: -math.log(1.0 - rng.random()) / max(weight, WEIGHT_MIN)
        for name, weight in sorted(weights.items())
    }
    return sorted(keys, key=lambda name: (keys[name], name))[: max(count, 0)]
