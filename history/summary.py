"""`summary.json`: what a program wants to know of a run. None means: not recorded."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from msgspec import Struct

from history.baselines import Baselines
from history.checks import CheckResult
from history.compression import DeviceCompression
from history.layers import BytesSummary
from history.local import LocalSummary
from history.probes import ProbeSummary
from history.verdict import EXIT_CODES, Judged, Verdict
from topology.allotment import Allotment

SUMMARY_SCHEMA = 1
SUMMARY_NAME = "summary.json"


class Quantities(Struct, frozen=True, kw_only=True):
    """Of one direction of a link; as `error`, relative for the rate and absolute for the others."""

    rate_bit_s: float | None = None
    delay_s: float | None = None
    delay_p99_s: float | None = None
    jitter_s: float | None = None
    loss: float | None = None


class Direction(Struct, frozen=True, kw_only=True):
    requested: Quantities
    effective: Quantities | None
    error: Quantities | None
    ok: bool | None


class LinkSummary(Struct, frozen=True, kw_only=True):
    name: str
    backend: str
    verified: bool | None
    up: Direction
    down: Direction


class PowerSummary(Struct, frozen=True, kw_only=True):
    """Charges are shares of a full battery; None for a device on mains. `offs`: how often it went, by reason."""

    charge_first: float | None
    charge_last: float | None
    charge_min: float | None
    offs: dict[str, int]


class DeviceSummary(Struct, frozen=True, kw_only=True):
    name: str
    group: str
    profile: str
    cpu_requested: float
    cpu_effective: float | None
    cpu_error: float | None
    cpu_ok: bool | None
    throttled_share: float | None  # of its quota periods
    run_delay_share: float | None  # of its time: it waited for the host's CPU, throttling left out
    link: LinkSummary
    peak_rss_mb: float | None
    memory_limit_mb: float
    updates_merged: int
    updates_discarded: int
    uplink_bytes: int  # payloads of updates, as the coordinator counted them
    uplink_bytes_sent: int | None  # the same, as the device counted them
    downlink_bytes: int
    bytes: BytesSummary | None = None  # at four layers; None in a summary of an older version
    boots: int
    offline_s: float
    messages_refused: int
    power: PowerSummary | None = None  # None: on mains and always there


class FaultSummary(Struct, frozen=True, kw_only=True):
    id: str
    kind: str
    targets: tuple[str, ...]
    trigger: str
    planned: bool
    applied: bool
    verified: bool | None
    healed: bool
    at_s: float | None
    lateness_s: float | None
    lasted_s: float | None
    overlapped: bool | None  # an open task of its targets
    detail: str


class LapseSummary(Struct, frozen=True, kw_only=True):
    what: str
    node: str
    requested: str
    effective: str
    detail: str
    at_s: float | None
    source: str


class CurvePoint(Struct, frozen=True, kw_only=True):
    version: int
    at_s: float
    accuracy: float | None
    loss: float | None
    uplink_bytes: int
    metrics: dict[str, float] = {}


class Emulation(Struct, frozen=True, kw_only=True):
    backend: str | None
    reason: str
    held: bool | None
    problems: tuple[str, ...]


class Summary(Struct, frozen=True, kw_only=True):
    schema: int = SUMMARY_SCHEMA
    run: str
    name: str
    verdict: Verdict
    reasons: tuple[str, ...]
    runtime: str
    seed: int
    topology_sha256: str
    model: str
    dataset: str
    started_at: str | None  # ISO 8601, UTC
    finish_reason: str | None
    final_accuracy: float | None
    final_loss: float | None
    final_metrics: dict[str, float]  # f1, mse, perplexity
    per_class_accuracy: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]  # [true][predicted], of the last version
    rounds: int
    versions: int
    wall_s: float | None
    phases: dict[str, float]
    uplink_bytes: int
    uplink_bytes_float32: int
    uplink_ratio: float | None
    uplink_bytes_sent: int | None
    downlink_bytes: int
    bytes: BytesSummary | None = None
    probes: ProbeSummary | None = None  # with a selection that asks for losses
    updates_merged: int
    updates_discarded: dict[str, int]
    updates_lost: int | None
    epsilon: float | None = None  # of (ε, δ), with merge: dp_fedavg
    accuracy: tuple[CurvePoint, ...]
    local: LocalSummary | None = (
        None  # the devices' own tests and their drift, where the topology asks for them
    )
    data: Allotment | None
    baselines: Baselines | None = None  # once `edgerig baseline` has made them
    devices: tuple[DeviceSummary, ...]
    compression: tuple[DeviceCompression, ...] = ()
    faults: tuple[FaultSummary, ...]
    lapses: tuple[LapseSummary, ...]
    expectations: tuple[Judged, ...]
    checks: tuple[CheckResult, ...]
    emulation: Emulation
    environment: dict[str, object]
    software: dict[str, str]
    event_count: int

    @property
    def exit_code(self) -> int:
        """0 pass, 4 interrupted, 1 everything else."""
        return EXIT_CODES[self.verdict]


def write_atomic(path: Path, data: bytes) -> None:
    """All of it or nothing: a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_summary(path: Path, summary: Summary) -> None:
    write_atomic(path, msgspec.json.format(msgspec.json.encode(summary), indent=1) + b"\n")


def load_summary(path: Path) -> Summary:
    """Raises msgspec.ValidationError with the path of the field that is wrong."""
    return msgspec.json.decode(path.read_bytes(), type=Summary)
