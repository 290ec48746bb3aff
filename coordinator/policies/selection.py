"""Who is given a task next: a choice among devices that are free, seeded, and fair in the long run.

A selection sees `AgentView`s, never the core's objects, and keeps nothing between calls: what it goes by is in the
views, and what is in the views is restored from the journal. So a choice is the same after a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol

from msgspec import Struct

from coordinator.policies.deadlines import Timings
from wire.plugins import load_into

PASSED_OVER_FLEETS = 2  # tasks given to others, in fleets, after which a waiting device comes first


class AgentView(Struct, frozen=True, kw_only=True):
    """A device that could be given a task now."""

    name: str
    timings: Timings = Timings()
    passed_over: int = 0  # tasks opened since its last one
    merged: int = 0  # updates of it that a version has


class Selection(Protocol):
    def choose(self, seen: Sequence[AgentView], count: int, fleet: int, rng: Random) -> list[str]:
        """`count` of them, or all when there are fewer, in the order of their tasks. `fleet`: devices of the run."""


class RandomSelection:
    """Uniform without replacement (McMahan et al., AISTATS 2017, algorithm 1)."""

    def choose(self, seen: Sequence[AgentView], count: int, fleet: int, rng: Random) -> list[str]:
        # Sorted first: the order in which agents happened to connect must not decide a seeded choice.
        names = sorted(view.name for view in seen)
        return rng.sample(names, min(count, len(names)))


class FairnessFloor:
    """Whoever was passed over for `PASSED_OVER_FLEETS` fleets of tasks comes first, longest first; then `inner`."""

    def __init__(self, inner: Selection) -> None:
        self._inner = inner

    def choose(self, seen: Sequence[AgentView], count: int, fleet: int, rng: Random) -> list[str]:
        starved = [view for view in seen if view.passed_over >= PASSED_OVER_FLEETS * fleet]
        starved.sort(key=lambda view: (-view.passed_over, view.name))
        first = [view.name for view in starved[:count]]
        rest = [view for view in seen if view.name not in first]
        return first + self._inner.choose(rest, count - len(first), fleet, rng)


SELECTIONS: dict[str, Callable[[], Selection]] = {"random": RandomSelection}


def make_selection(kind: str = "random") -> Selection:
    """By name, installed plug-ins (group `edgerig.selections`) included; the floor is under all of them. Raises
    ValueError.
    """
    load_into(SELECTIONS, "edgerig.selections")
    if kind not in SELECTIONS:
        raise ValueError(f"selection {kind!r} is not known here; known: {', '.join(sorted(SELECTIONS))}")
    return FairnessFloor(SELECTIONS[kind]())
