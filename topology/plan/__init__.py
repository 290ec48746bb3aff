"""The plan: a topology with everything decided.

A topology (YAML, `topology.schema`) is what a person writes; a plan is what the services of a run read. It holds
resolved numbers only (bit/s, seconds, bytes, addresses, uids), no profile names to look up, no units to parse and no
secret. `topology.compile` makes it; it is written once as `plan.json` before anything starts and never changes.

msgspec structs, so that the services need no pydantic and a broken file is refused with the path of the field.
"""

from __future__ import annotations

from topology.plan.agent import AgentConfig
from topology.plan.compression import CompressionPlan, UplinkPlan
from topology.plan.devices import (
    Bursts,
    DevicePlan,
    JitterKind,
    Link,
    NetworkPlan,
    RandomWalk,
    Shape,
    Sine,
    Step,
    Steps,
    Tolerance,
    Variation,
    Varied,
)
from topology.plan.faults import FaultParams, FaultPlan, Trigger, TriggerState
from topology.plan.learning import (
    DataPlan,
    ModelPlan,
    OptimizerPlan,
    PartitionPlan,
    SchedulePlan,
    TrainingPlan,
)
from topology.plan.merge import MergePlan
from topology.plan.personalization import EvaluationPlan, PersonalPlan
from topology.plan.policy import PolicyKind, PolicyPlan, SelectionPlan, StalenessPlan
from topology.plan.run import PLAN_SCHEMA, Expectation, Plan, Runtime, dump_plan, load_plan

__all__ = [
    "PLAN_SCHEMA",
    "AgentConfig",
    "Bursts",
    "CompressionPlan",
    "DataPlan",
    "DevicePlan",
    "EvaluationPlan",
    "Expectation",
    "FaultParams",
    "FaultPlan",
    "JitterKind",
    "Link",
    "MergePlan",
    "ModelPlan",
    "NetworkPlan",
    "OptimizerPlan",
    "PartitionPlan",
    "PersonalPlan",
    "Plan",
    "PolicyKind",
    "PolicyPlan",
    "RandomWalk",
    "Runtime",
    "SchedulePlan",
    "SelectionPlan",
    "Shape",
    "Sine",
    "StalenessPlan",
    "Step",
    "Steps",
    "Tolerance",
    "TrainingPlan",
    "Trigger",
    "TriggerState",
    "UplinkPlan",
    "Variation",
    "Varied",
    "dump_plan",
    "load_plan",
]
