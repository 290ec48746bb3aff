"""Who is given a task next: a choice among devices that are free, seeded, and fair in the long run.

A selection sees `AgentView`s, never the core's objects, and keeps nothing between calls: what it goes by is in the
views, and what is in the views is restored from the journal, or said again by every agent in its hello (its charge).
So a choice is the same after a restart.

To add one: a module here with a class that takes the plan, a line in SELECTIONS, its name in `topology.names` and
`topology.schema.policy` (with its options, if any), and a line in docs/selection.md; the property tests take it up.
"""

from __future__ import annotations

from collections.abc import Callable

from coordinator.policies.selection.availability import Availability
from coordinator.policies.selection.bandwidth import Bandwidth
from coordinator.policies.selection.base import (
    AgentView,
    Fleet,
    Probes,
    Selection,
    clipped_loss,
    statistical_utility,
)
from coordinator.policies.selection.floor import FairnessFloor, ProbingFloor
from coordinator.policies.selection.oort import Oort
from coordinator.policies.selection.power_of_choice import PowerOfChoice
from coordinator.policies.selection.round_robin import RoundRobin
from coordinator.policies.selection.uniform import RandomSelection
from topology.plan import SelectionPlan
from wire.plugins import load_into

SELECTIONS: dict[str, Callable[..., Selection]] = {
    "random": RandomSelection,
    "round_robin": RoundRobin,
    "availability": Availability,
    "bandwidth": Bandwidth,
    "oort": Oort,
    "power_of_choice": PowerOfChoice,
}
BUILT_IN = frozenset(SELECTIONS)  # their factories take the plan; those of plug-ins take nothing

__all__ = [
    "BUILT_IN",
    "SELECTIONS",
    "AgentView",
    "FairnessFloor",
    "Fleet",
    "Probes",
    "Selection",
    "clipped_loss",
    "make_selection",
    "statistical_utility",
]


def make_selection(plan: SelectionPlan) -> Selection:
    """By name, installed plug-ins (group `edgerig.selections`) included; the floor is under all of them. Raises
    ValueError.
    """
    load_into(SELECTIONS, "edgerig.selections")
    factory = SELECTIONS.get(plan.kind)
    if factory is None:
        raise ValueError(f"selection {plan.kind!r} is not known here; known: {', '.join(sorted(SELECTIONS))}")
    made = factory(plan) if plan.kind in BUILT_IN else factory()
    if isinstance(made, PowerOfChoice):
        return ProbingFloor(made, made, plan.min_share)
    return FairnessFloor(made, plan.min_share)
