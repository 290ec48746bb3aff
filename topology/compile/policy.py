"""Scheduling and merging."""

from __future__ import annotations

import math

from topology.plan import PolicyPlan, SelectionPlan, StalenessPlan
from topology.schema import Policy, Topology
from topology.schema.policy import AUTO, DEADLINE_CEILING_S, DEADLINE_FLOOR_S

# FedBuff's K (Nguyen et al., AISTATS 2022, section 4): it depends little on the number of devices.
BUFFER = 10
MIXING = 0.6  # FedAsync's α (Xie et al., 2019, section 5)
TIERS = 3


def compile_policy(topology: Topology) -> PolicyPlan:
    given, devices = topology.policy, len(topology.device_names)
    tiers = (given.tiers or TIERS) if given.kind in ("tiered", "fedat") else 1
    auto = given.deadline == AUTO
    return PolicyPlan(
        kind=given.kind,
        server_lr=given.server_lr,
        selection=_selection(given),
        deadline_s=(given.deadline_ceiling or DEADLINE_CEILING_S) if auto else float(given.deadline),
        deadline_auto=auto,
        deadline_floor_s=given.deadline_floor or DEADLINE_FLOOR_S,
        staleness=_staleness(given),
        max_staleness=given.max_staleness,
        cohort=given.cohort if given.cohort is not None else math.ceil(devices / tiers),
        over_select=given.over_select if given.over_select is not None else 1.0,
        quorum=given.quorum if given.quorum is not None else 1.0,
        carry_over=bool(given.carry_over),
        concurrency=given.concurrency if given.concurrency is not None else devices,
        buffer=_buffer(given, devices),
        mixing=_mixing(given),
        tiers=tiers,
    )


def _buffer(given: Policy, devices: int) -> int:
    if given.kind != "buffered":
        return 1
    return given.buffer if given.buffer is not None else min(BUFFER, devices)


def _mixing(given: Policy) -> float:
    if given.kind != "asynchronous":
        return 1.0
    return given.mixing if given.mixing is not None else MIXING


def _staleness(given: Policy) -> StalenessPlan:
    default = StalenessPlan()
    spec = given.staleness
    return StalenessPlan(
        kind=spec.kind,
        exponent=spec.exponent if spec.exponent is not None else default.exponent,
        a=spec.a if spec.a is not None else default.a,
        b=spec.b if spec.b is not None else default.b,
    )


def _selection(given: Policy) -> SelectionPlan:
    default = SelectionPlan()
    spec = given.selection
    return SelectionPlan(
        kind=spec.kind,
        min_share=spec.min_share,
        charge_min=spec.charge_min if spec.charge_min is not None else default.charge_min,
        exploration=spec.exploration if spec.exploration is not None else default.exploration,
        penalty=spec.penalty if spec.penalty is not None else default.penalty,
        window=spec.window if spec.window is not None else default.window,
        candidates=spec.candidates if spec.candidates is not None else default.candidates,
        probe_samples=spec.probe_samples if spec.probe_samples is not None else default.probe_samples,
        probe_deadline_s=spec.probe_deadline,
    )
