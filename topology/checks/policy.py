"""The policy against fleet, model and links."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from topology.chains import chain_of
from topology.checks.registry import Problem, check
from topology.links import resolve_link
from topology.names import PARAMETERS
from topology.schema import Topology
from topology.schema.policy import (
    AUTO,
    DEADLINE_CEILING_S,
    DEADLINE_FLOOR_S,
    KEYS,
    SELECTION_KEYS,
    STALENESS_KEYS,
    Selection,
    Staleness,
)


@check("policy")
def keys_belong_to_the_kind(topology: Topology) -> Iterator[Problem]:
    policy = topology.policy
    for key in sorted(frozenset[str]().union(*KEYS.values()) - KEYS[policy.kind]):
        if getattr(policy, key) is not None:
            kinds = " or ".join(kind for kind, keys in KEYS.items() if key in keys)
            yield Problem(
                ("policy", key), f"a {policy.kind} schedule has none", f"it belongs to kind: {kinds}"
            )
    for key in ("deadline_floor", "deadline_ceiling"):
        if getattr(policy, key) is not None and policy.deadline != AUTO:
            yield Problem(("policy", key), "the deadline is fixed", "deadline: auto, or leave this key out")
    yield from _keys_of(policy.staleness, "staleness", STALENESS_KEYS)
    yield from _keys_of(policy.selection, "selection", SELECTION_KEYS)


def _keys_of(
    spec: Staleness | Selection, name: str, keys_of: Mapping[str, frozenset[str]]
) -> Iterator[Problem]:
    for key in sorted(frozenset[str]().union(*keys_of.values()) - keys_of.get(spec.kind, frozenset())):
        if getattr(spec, key) is not None:
            kinds = " or ".join(kind for kind, keys in keys_of.items() if key in keys)
            yield Problem(
                ("policy", name, key), f"{spec.kind} {name} has none", f"it belongs to kind: {kinds}"
            )


@check("policy", "devices")
def some_device_has_a_charge(topology: Topology) -> Iterator[Problem]:
    if topology.policy.selection.charge_min is None:
        return
    if all(group.battery is None for group in topology.devices.values()):
        yield Problem(
            ("policy", "selection", "charge_min"),
            "no device has a battery",
            "a battery for a group of devices, or leave this key out",
        )


FEDAT_TIERS_MAX = 6  # each has a version of its own under way, and eight in all can be fetched


@check("policy")
def every_tier_has_a_version(topology: Topology) -> Iterator[Problem]:
    policy = topology.policy
    if policy.kind == "fedat" and (policy.tiers or 0) > FEDAT_TIERS_MAX:
        yield Problem(
            ("policy", "tiers"),
            "every tier of fedat trains on a version of its own, and eight are kept at a time",
            f"at most {FEDAT_TIERS_MAX}",
        )


@check("policy", "devices")
def losses_can_be_asked_for(topology: Topology) -> Iterator[Problem]:
    policy, devices = topology.policy, len(topology.device_names)
    if policy.selection.kind != "power_of_choice":
        return
    if policy.kind != "synchronous":
        yield Problem(
            ("policy", "selection"),
            f"power_of_choice asks for losses before a round; a {policy.kind} schedule has no time for that",
            "kind: synchronous, or another selection",
        )
    asked = math.ceil((policy.cohort or devices) * (policy.over_select or 1.0))
    given = policy.selection.candidates
    if given is not None and not asked <= given <= devices:
        yield Problem(
            ("policy", "selection", "candidates"),
            f"{asked} of them are to be chosen, and the fleet has {devices} devices",
            f"{asked} to {devices}",
        )


@check("policy")
def something_can_be_stale(topology: Topology) -> Iterator[Problem]:
    policy = topology.policy
    if policy.kind not in ("synchronous", "tiered") or policy.carry_over:
        return
    bounded, damped = policy.max_staleness is not None, policy.staleness.kind != "constant"
    for key, given in (("max_staleness", bounded), ("staleness", damped)):
        if given:
            yield Problem(
                ("policy", key),
                f"no update of a {policy.kind} round is older than its round",
                "carry_over: true (synchronous), kind: buffered, or leave this key out",
            )


@check("policy")
def floor_is_below_ceiling(topology: Topology) -> Iterator[Problem]:
    plan = deadline_bounds(topology)
    if plan.floor_s > plan.ceiling_s:
        yield Problem(
            ("policy", "deadline_floor"),
            f"{plan.floor_s:g} s is above the ceiling of {plan.ceiling_s:g} s",
            "a smaller floor, or a larger deadline_ceiling",
        )


@check("devices", "policy")
def policy_fits_fleet(topology: Topology) -> Iterator[Problem]:
    devices, policy = len(topology.device_names), topology.policy
    over_select = policy.over_select or 1.0
    cohort = policy.cohort if policy.cohort is not None else devices
    if cohort > devices and "cohort" in KEYS[policy.kind]:
        yield Problem(("policy", "cohort"), f"the fleet has only {devices} devices", f"at most {devices}")
    elif math.ceil(cohort * over_select) > devices:
        yield Problem(
            ("policy", "over_select"),
            f"{over_select:g} × {cohort} devices are more than the {devices} of the fleet",
            "a smaller cohort, or over_select: 1",
        )
    for key in ("concurrency", "tiers"):
        given = getattr(policy, key)
        if given is not None and given > devices:
            yield Problem(("policy", key), f"the fleet has only {devices} devices", f"at most {devices}")


class Bounds(NamedTuple):
    floor_s: float
    ceiling_s: float


def deadline_bounds(topology: Topology) -> Bounds:
    """Of an automatic deadline; a fixed one has no room."""
    policy = topology.policy
    if policy.deadline != AUTO:
        return Bounds(float(policy.deadline), float(policy.deadline))
    return Bounds(policy.deadline_floor or DEADLINE_FLOOR_S, policy.deadline_ceiling or DEADLINE_CEILING_S)


@check("devices", "links", "model", "compression", "policy")
def deadline_is_possible(topology: Topology) -> Iterator[Problem]:
    """The bytes of an update over the slowest uplink, from below: training, download and overheads not
    counted.
    """
    deadline_s = deadline_bounds(topology).ceiling_s
    size_bytes = update_bytes_least(topology)
    for group, spec in topology.devices.items():
        rate_bit_s = resolve_link(spec.link).up.rate_bit_s
        if rate_bit_s is not None and size_bytes * 8 / rate_bit_s > deadline_s:
            yield Problem(
                ("policy", "deadline_ceiling" if topology.policy.deadline_ceiling else "deadline"),
                f"{group} sends its {size_bytes / 1e6:.1f} MB in {size_bytes * 8 / rate_bit_s:.0f} s",
                "a longer deadline, a smaller top_k, or another link",
                value=f"{deadline_s:g} s",
            )


BITS_LEAST = {"none": 16, "fp16": 8, "bf16": 8, "int8": 4, "int4": 2, "ternary": 0.5, "qsgd": 0.1}


def update_bytes_least(topology: Topology) -> float:
    """A lower bound of an update's size: the values alone, and what entropy coding may at best make of them. 0 for a
    model that only its file tells the size of.
    """
    chain = chain_of(topology.compression.uplink)
    parameters, sparsify = PARAMETERS.get(topology.model.source, 0), chain.sparsify
    bits = chain.bits or 1 if chain.quantize == "eden" else BITS_LEAST.get(chain.quantize, 0.0)
    if chain.entropy == "none" and chain.quantize in ("none", "fp16", "bf16", "int8", "int4"):
        bits *= 2
    if topology.compression.uplink.adaptive is not None or (sparsify is not None and sparsify.threshold):
        return 0.0
    if sparsify is not None and sparsify.bytes is not None:
        return float(min(sparsify.bytes, parameters * bits / 8))
    share = sparsify.fraction if sparsify is not None and sparsify.fraction is not None else 1.0
    return parameters * share * bits / 8
