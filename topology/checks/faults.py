"""Faults: whole, with targets, in time, not against each other."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import cast

from topology.checks.devices import QUOTA_S_MIN
from topology.checks.fault_links import groups_hit
from topology.checks.registry import Problem, check
from topology.errors import Path, did_you_mean
from topology.faults import DOWN_S_MIN, GENERATED_MAX, contradictions, plans_of
from topology.plan.faults import BROKER, COORDINATOR
from topology.schema import Topology
from topology.schema.faults import FAULTS, GENERATORS, Aim, Churn, Fault, FaultSpec, Random, members
from topology.schema.faults.behaviour import Poison
from topology.schema.faults.life import CpuSlowdown
from topology.schema.faults.link import LinkChange
from topology.schema.policy import DEADLINE_CEILING_S

LASTING = frozenset({"kill", "stop", "pause"})  # of what can hit a service: these last until they are healed
# As the coordinator extends a round at most thrice, and evaluates and publishes beside it.
EXTENSIONS, ROUND_SLACK_S = 4, 30.0


def is_whole(fault: Fault) -> bool:
    """Exactly one kind, and exactly one trigger where it has one of its own."""
    return len(fault.kinds) == 1 and (fault.generated or (fault.at is None) != (fault.when is None))


@check("faults")
def faults_are_whole(topology: Topology) -> Iterator[Problem]:
    for index, fault in enumerate(topology.faults):
        path: Path = ("faults", index)
        if not fault.kinds:
            yield Problem(path, "no fault is named", f"one of: {', '.join((*FAULTS, *GENERATORS))}")
        elif len(fault.kinds) > 1:
            yield Problem(path, f"more than one fault: {', '.join(fault.kinds)}", "one entry for each")
        elif fault.generated:
            yield from _generated_alone(fault, path)
            continue
        if (fault.at is None) == (fault.when is None):
            yield Problem(
                path, "exactly one of `at` and `when` is wanted", "at: 40 s, or when: round 3 training"
            )


def _generated_alone(fault: Fault, path: Path) -> Iterator[Problem]:
    for key in ("when", "heal_after"):
        if getattr(fault, key) is not None:
            hint = "`at` is when it begins; the first round without it"
            yield Problem((*path, key), f"`{fault.kind}` draws its own times", hint)


@check("faults")
def faults_are_aimed(topology: Topology) -> Iterator[Problem]:
    for index, fault in enumerate(topology.faults):
        for kind in fault.kinds:
            spec, path = getattr(fault, kind), ("faults", index, kind)
            if not isinstance(spec, Aim):
                continue
            if not spec.named_by:
                yield Problem((*path, "device"), "required, but missing", "or a group, profile or service")
            elif len(spec.named_by) > 1:
                yield Problem(path, f"more than one of {', '.join(spec.named_by)}", "one of them says whom")
            if spec.count is not None and spec.pick is not None:
                yield Problem(path, "both `count` and `pick`", "one of them says how many")
            for key in ("count", "pick"):
                if spec.service is not None and getattr(spec, key) is not None:
                    yield Problem((*path, key), f"there is one {spec.service}", "leave it out")


@check("faults", "devices")
def faults_have_targets(topology: Topology) -> Iterator[Problem]:
    for index, fault in enumerate(topology.faults):
        for kind in fault.kinds:
            spec = getattr(fault, kind)
            if isinstance(spec, Aim) and len(spec.named_by) == 1:
                yield from _aimed(spec, topology, ("faults", index, kind))


def _aimed(spec: Aim, topology: Topology, path: Path) -> Iterator[Problem]:
    fleet, key = members(topology.devices), spec.named_by[0]
    if spec.service is not None:
        if spec.service not in spec.services:
            able = ", ".join(sorted(spec.services))
            hint = f"it can hit devices and {able}" if able else "it can hit devices only"
            yield Problem((*path, key), f"this fault cannot hit the {spec.service}", hint)
        return
    found = spec.matches(fleet)
    if not found:
        names = [*topology.devices] if key == "group" else [member.name for member in fleet]
        known = sorted({member.profile for member in fleet}) if key == "profile" else names
        hint = did_you_mean(str(getattr(spec, key)), _examples(known))
        yield Problem((*path, key), "matches no device", hint)
    elif spec.count is not None and spec.count > len(found):
        yield Problem((*path, "count"), f"only {len(found)} devices match {getattr(spec, key)!r}")


@check("faults", "training", "devices", "policy")
def faults_come_in_time(topology: Topology) -> Iterator[Problem]:
    rounds, updates, longest_s = topology.training.rounds, _updates_max(topology), _longest_s(topology)
    for index, fault in enumerate(topology.faults):
        path, when = ("faults", index, "when"), fault.when
        if fault.at is not None and fault.at > longest_s:
            text = f"the run is over after {longest_s:.0f} s, if every round takes as long as it may"
            yield Problem(("faults", index, "at"), text, "an earlier time, or more rounds")
        if when is None:
            continue
        if max(when.round or 0, when.version or 0) > rounds:
            yield Problem(path, f"the run ends after round {rounds}", f"from 1 to {rounds}")
        elif when.updates_merged is not None and updates is not None and when.updates_merged > updates:
            yield Problem(path, f"the run merges at most {updates} updates", f"from 1 to {updates}")


@check("faults", "training", "devices", "policy")
def drawn_faults_come_in_time(topology: Topology) -> Iterator[Problem]:
    """What is drawn later than the run can last would be planned and never strike."""
    longest_s = _longest_s(topology)
    for index, fault in enumerate(topology.faults):
        if len(fault.kinds) != 1 or not fault.generated:
            continue
        spec, path = cast("Churn | Random", fault.spec), ("faults", index, fault.kind)
        if (ends_s := (fault.at or 0.0) + spec.during) > longest_s:
            text = f"goes on until {ends_s:g} s; the run is over after {longest_s:.0f} s at the latest"
            yield Problem((*path, "during"), text, "a shorter time, or more rounds")
        if isinstance(spec, Churn) and len(spec.named_by) == 1:
            targets = spec.matches(members(topology.devices))
            expected = len(targets) * spec.during / (spec.every + max(spec.down, DOWN_S_MIN))
            if expected > GENERATED_MAX:
                text = f"some {expected:.0f} failures, and a run takes {GENERATED_MAX}"
                yield Problem((*path, "every"), text, "a longer time between them, or a shorter `during`")
        elif isinstance(spec, Random) and 2 * (fit := len(plans_of(topology, index))) < spec.count:
            text = f"only {fit} have room beside each other without contradiction"
            yield Problem((*path, "count"), text, "fewer, a longer `during`, or a shorter heal_after")


def _longest_s(topology: Topology) -> float:
    return topology.training.rounds * (EXTENSIONS * _deadline_s(topology) + ROUND_SLACK_S)


def _deadline_s(topology: Topology) -> float:
    given, ceiling = topology.policy.deadline, topology.policy.deadline_ceiling
    return given if isinstance(given, float) else ceiling or DEADLINE_CEILING_S


def _updates_max(topology: Topology) -> int | None:
    """How many updates the run can merge; None where a version may have more than the file says."""
    policy, devices = topology.policy, len(topology.device_names)
    if policy.kind == "asynchronous":
        return topology.training.rounds
    if policy.kind == "buffered":
        return topology.training.rounds * min(policy.buffer or 10, devices)
    return None if policy.carry_over else topology.training.rounds * min(policy.cohort or devices, devices)


@check("faults", "devices")
def faults_do_something(topology: Topology) -> Iterator[Problem]:
    """What is written and would change nothing, or never the way it says."""
    for index, fault in enumerate(topology.faults):
        if not is_whole(fault):
            continue
        path, spec = ("faults", index), fault.spec
        if isinstance(spec, LinkChange) and not spec.link.model_fields_set:
            yield Problem(
                (*path, "link_change", "link"), "nothing would change", "a profile, or up: 200 kbit/s"
            )
        if isinstance(spec, FaultSpec) and spec.service == "hostd" and fault.heal_after is not None:
            yield Problem((*path, "heal_after"), "hostd comes back by itself", "leave it out")
        if fault.heal_after is not None and fault.heal_after < DOWN_S_MIN:
            text = "hostd needs a turn to apply a fault and one to heal it"
            yield Problem((*path, "heal_after"), text, f"at least {DOWN_S_MIN:g} s")
        if isinstance(spec, Poison) and spec.how != "scaled" and "factor" in spec.model_fields_set:
            yield Problem((*path, "poison", "factor"), f"{spec.how} multiplies by nothing", "how: scaled")
        if fault.when is not None and fault.when.bytes_share is not None and _is_service(spec):
            yield Problem((*path, "when"), "a service sends no update", "a trigger of another kind")


@check("faults")
def somebody_starts_services_again(topology: Topology) -> Iterator[Problem]:
    for index, fault in enumerate(topology.faults):
        if fault.heal_after is not None or not is_whole(fault) or fault.kind not in LASTING:
            continue
        if isinstance(spec := fault.spec, Aim) and spec.service in (BROKER, COORDINATOR):
            text = f"nobody brings the {spec.service} back, and no round ends without it"
            yield Problem(("faults", index), text, "add a heal_after")


@check("faults", "devices", "resources")
def quotas_can_be_lowered(topology: Topology) -> Iterator[Problem]:
    for index, fault in enumerate(topology.faults):
        spec = getattr(fault, "cpu_slowdown", None)
        if not isinstance(spec, CpuSlowdown) or len(spec.named_by) != 1:
            continue
        for group in groups_hit(spec, topology):
            devices = topology.devices[group]
            least = QUOTA_S_MIN / devices.cpu_period / devices.cores
            if spec.factor < least * (1 - 1e-9):
                text = f"of the {devices.cores:g} cores of {group} the kernel cannot give so little"
                yield Problem(("faults", index, "cpu_slowdown"), text, f"factor: {least:.3g} at least")


def _is_service(spec: object) -> bool:
    return isinstance(spec, Aim) and spec.service is not None


@check("faults", "devices", "links")
def faults_do_not_contradict(topology: Topology) -> Iterator[Problem]:
    if any(True for found in (faults_are_aimed, faults_have_targets) for _ in found(topology)):
        return  # who is hit is not known
    told = set()
    for later, earlier, target in contradictions(topology, is_whole):
        if (later.entry, earlier.entry) in told:
            continue
        told.add((later.entry, earlier.entry))
        yield Problem(
            ("faults", later.entry),
            f"{later.kind} contradicts {earlier.kind} of faults[{earlier.entry}], which is in force on {target} then",
            "other times, another trigger, or a heal_after before the second strikes",
        )


def _examples(names: list[str]) -> list[str]:
    """Enough names for a hint; a fleet of hundreds is not listed."""
    return names if len(names) <= 12 else random.Random(0).sample(names, 12)
