"""The whole plan of a run, and its file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, field

from topology.plan.compression import CompressionPlan
from topology.plan.devices import DevicePlan, NetworkPlan, Tolerance
from topology.plan.faults import FaultPlan
from topology.plan.learning import DataPlan, ModelPlan, TrainingPlan
from topology.plan.merge import MergePlan
from topology.plan.personalization import EvaluationPlan, PersonalPlan
from topology.plan.policy import PolicyPlan

PLAN_SCHEMA = 1


Runtime = Literal["docker", "process"]


class Expectation(Struct, frozen=True, kw_only=True):
    """`metric` `op` `value`; metrics: accuracy, updates_lost, rounds, uplink_ratio, wall_s, ... (history.verdict)."""

    metric: str
    op: Literal[">=", "<=", "==", ">", "<"]
    value: float


class Plan(Struct, frozen=True, kw_only=True):
    schema: int = PLAN_SCHEMA
    run: str
    name: str
    seed: int
    runtime: Runtime
    topology_sha256: str
    devices: tuple[DevicePlan, ...]
    data: DataPlan
    model: str  # its name in reports
    graph: ModelPlan = field(default_factory=ModelPlan)
    training: TrainingPlan
    policy: PolicyPlan
    merge: MergePlan = field(default_factory=MergePlan)
    personalization: PersonalPlan | None = None
    evaluation: EvaluationPlan = field(default_factory=EvaluationPlan)
    compression: CompressionPlan
    faults: tuple[FaultPlan, ...] = ()
    expect: tuple[Expectation, ...] = ()
    tolerance: Tolerance = field(default_factory=Tolerance)
    network: NetworkPlan = field(default_factory=NetworkPlan)
    coordinator_uid: int = 0
    broker_uid: int = 0
    start_timeout_s: float = 120.0

    def device(self, name: str) -> DevicePlan:
        for device in self.devices:
            if device.name == name:
                return device
        raise KeyError(f"no device {name!r} in the plan")


def load_plan(path: str | Path) -> Plan:
    """Read `plan.json`; a broken one raises msgspec.ValidationError with the path of the field."""
    plan = msgspec.json.decode(Path(path).read_bytes(), type=Plan)
    if plan.schema != PLAN_SCHEMA:
        raise ValueError(f"{path}: plan schema {plan.schema}, this version reads {PLAN_SCHEMA}")
    return plan


def dump_plan(plan: Plan) -> bytes:
    return msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n"
