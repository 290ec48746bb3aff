"""The plan: a topology with everything decided.

A topology (YAML, `topology.schema`) is what a person writes; a plan is what the services of a run read. It holds
resolved numbers only (bit/s, seconds, bytes, addresses, uids), no profile names to look up, no units to parse and no
secret. `topology.compile` makes it; it is written once as `plan.json` before anything starts and never changes.

msgspec structs, so that the services need no pydantic and a broken file is refused with the path of the field.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, field

PLAN_SCHEMA = 1

Runtime = Literal["docker", "process"]


class Shape(Struct, frozen=True, kw_only=True):
    """One direction of a link.

    `rate_bit_s` counts Ethernet frames (payload + 42 bytes of UDP/IP/Ethernet headers), None is unlimited.
    `delay_s` is one-way; `jitter_s` the standard deviation of a normal distribution that never reorders;
    `loss` the probability that a packet is dropped; `queue_bytes` what waits before the shaper, None = 200 ms.
    """

    rate_bit_s: int | None = None
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    queue_bytes: int | None = None

    @property
    def shaped(self) -> bool:
        return self.rate_bit_s is not None or self.delay_s > 0 or self.jitter_s > 0 or self.loss > 0


class Link(Struct, frozen=True, kw_only=True):
    """Both directions of one device's link; `name` is the profile it came from or "custom"."""

    name: str
    up: Shape
    down: Shape


class Tolerance(Struct, frozen=True, kw_only=True):
    """What a measured link or quota may be off before the run is invalid (links-and-faults.md, d1)."""

    rate: float = 0.05  # relative
    delay_s: float = 0.002  # absolute, or:
    delay: float = 0.05  # relative; the larger of the two holds
    cpu: float = 0.10  # relative


class DevicePlan(Struct, frozen=True, kw_only=True):
    name: str
    group: str
    index: int
    profile: str
    cpus: float
    cpu_period_us: int = 100_000
    memory_bytes: int
    threads: int = 1
    link: Link
    address: str = ""  # fixed address on the data network; empty in the process runtime
    uid: int = 0


class PartitionPlan(Struct, frozen=True, kw_only=True):
    kind: Literal["iid", "dirichlet", "shards"] = "iid"
    alpha: float = 0.5
    shards_per_device: int = 2


class DataPlan(Struct, frozen=True, kw_only=True):
    dataset: str
    partition: PartitionPlan
    samples_per_device: int


class OptimizerPlan(Struct, frozen=True, kw_only=True):
    kind: Literal["sgd"] = "sgd"
    lr: float = 0.05
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0


class TrainingPlan(Struct, frozen=True, kw_only=True):
    rounds: int
    local_epochs: int = 1
    batch_size: int = 16
    optimizer: OptimizerPlan = field(default_factory=OptimizerPlan)
    stop_at_accuracy: float | None = None


class PolicyPlan(Struct, frozen=True, kw_only=True):
    kind: Literal["synchronous"] = "synchronous"
    cohort: int
    over_select: float = 1.0
    deadline_s: float = 60.0
    quorum: float = 1.0
    server_lr: float = 1.0


class UplinkPlan(Struct, frozen=True, kw_only=True):
    top_k: float | None = None
    quantize: Literal["none", "fp16", "int8"] = "none"
    entropy: Literal["none", "zstd"] = "zstd"


class CompressionPlan(Struct, frozen=True, kw_only=True):
    uplink: UplinkPlan = field(default_factory=UplinkPlan)
    downlink: Literal["fp16", "none"] = "fp16"


class Trigger(Struct, frozen=True, kw_only=True):
    """When a fault fires: `at_s` after the run's first round opened, or when `round` enters `state`
    (`collecting`: its first update offer is in or half of its tasks have begun to train, see emulation.faults)."""

    at_s: float | None = None
    round: int | None = None
    state: Literal["training", "collecting", "closed"] | None = None


class FaultParams(Struct, frozen=True, kw_only=True):
    """What some faults need besides their targets; each reads its own and ignores the rest.

    `up`, `down`: the shapes of `link_change`, None leaves that direction. `cpus_factor`: `cpu_slowdown` multiplies the
    quota by it. `period_s`: `flap` cuts the link for one half of it. `direction`: which way `partition` and `flap` cut.
    """

    up: Shape | None = None
    down: Shape | None = None
    cpus_factor: float = 0.25
    period_s: float = 4.0
    direction: Literal["both", "up", "down"] = "both"


class FaultPlan(Struct, frozen=True, kw_only=True):
    id: str
    kind: str
    trigger: Trigger
    targets: tuple[str, ...]
    heal_after_s: float | None = None
    params: FaultParams = field(default_factory=FaultParams)


class Expectation(Struct, frozen=True, kw_only=True):
    """`metric` `op` `value`; metrics: accuracy, updates_lost, rounds, uplink_ratio, wall_s, ... (history.verdict)."""

    metric: str
    op: Literal[">=", "<=", "==", ">", "<"]
    value: float


class NetworkPlan(Struct, frozen=True, kw_only=True):
    """The data network of a run. `broker_port` is TLS."""

    subnet: str = ""
    gateway: str = ""
    broker_host: str = "broker"
    broker_address: str = ""
    broker_port: int = 8883
    congestion: str = ""  # TCP congestion control to pin, empty = the kernel's


class Plan(Struct, frozen=True, kw_only=True):
    schema: int = PLAN_SCHEMA
    run: str
    name: str
    seed: int
    runtime: Runtime
    topology_sha256: str
    devices: tuple[DevicePlan, ...]
    data: DataPlan
    model: str
    training: TrainingPlan
    policy: PolicyPlan
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


class AgentConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one device is told about itself: the file `agent.yaml`, in a container as on a Raspberry Pi.

    Paths are relative to the file's own folder unless absolute. `uplink_bit_s` bounds the bytes in flight to one
    second of the link; 0 means unknown (then a cautious 1 Mbit/s is assumed). An empty `gate` means: no link gate.
    """

    run: str
    agent: str
    broker_host: str
    broker_port: int
    username: str
    password_file: str
    ca_file: str | None = None
    tls_server_name: str | None = None
    mqtt_version: Literal[4, 5] = 5
    shard: str
    state: str
    gate: str = ""
    gate_wait_s: float = 180.0
    threads: int = 1
    uplink_bit_s: int = 0
    congestion: str = ""
    log_level: str = "info"


def load_plan(path: str | Path) -> Plan:
    """Read `plan.json`; a broken one raises msgspec.ValidationError with the path of the field."""
    plan = msgspec.json.decode(Path(path).read_bytes(), type=Plan)
    if plan.schema != PLAN_SCHEMA:
        raise ValueError(f"{path}: plan schema {plan.schema}, this version reads {PLAN_SCHEMA}")
    return plan


def dump_plan(plan: Plan) -> bytes:
    return msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n"
