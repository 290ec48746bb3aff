"""Faults: whole, with targets, in time."""

from __future__ import annotations

import random
from collections.abc import Iterator

from topology.checks.registry import Problem, check
from topology.errors import Path, did_you_mean
from topology.faults import FAULTS
from topology.schema import Topology


@check("faults")
def faults_are_whole(topology: Topology) -> Iterator[Problem]:
    for index, fault in enumerate(topology.faults):
        path: Path = ("faults", index)
        if not fault.kinds:
            yield Problem(path, "no fault is named", f"one of: {', '.join(FAULTS)}")
        elif len(fault.kinds) > 1:
            yield Problem(path, f"more than one fault: {', '.join(fault.kinds)}", "one entry for each")
        if (fault.at is None) == (fault.when is None):
            yield Problem(
                path, "exactly one of `at` and `when` is wanted", "at: 40 s, or when: round 3 training"
            )


@check("faults", "devices")
def faults_have_targets(topology: Topology) -> Iterator[Problem]:
    names = topology.device_names
    for index, fault in enumerate(topology.faults):
        for kind in fault.kinds:
            spec = getattr(fault, kind)
            found = spec.matches(names)
            if not found:
                yield Problem(
                    ("faults", index, kind, "device"),
                    "matches no device",
                    did_you_mean(spec.device, _examples(names)),
                )
            elif spec.count is not None and spec.count > len(found):
                yield Problem(
                    ("faults", index, kind, "count"), f"only {len(found)} devices match {spec.device!r}"
                )


@check("faults", "training")
def faults_come_in_time(topology: Topology) -> Iterator[Problem]:
    rounds = topology.training.rounds
    for index, fault in enumerate(topology.faults):
        if fault.when is not None and fault.when.round > rounds:
            yield Problem(
                ("faults", index, "when"), f"the run ends after round {rounds}", f"a round from 1 to {rounds}"
            )


def _examples(names: list[str]) -> list[str]:
    """Enough names for a hint; a fleet of hundreds is not listed."""
    return names if len(names) <= 12 else random.Random(0).sample(names, 12)
