"""What a run was, put together from its events: devices, rounds, tasks, versions, faults, lapses.

Plain data that store, summary, checks and report read. Times (`*_at`) are seconds on the host's monotonic
clock, as in the events; `Record.since` turns them into seconds of the run. None means: not recorded.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from history.baselines import Baselines
from history.events import Event
from history.reader import UNREAD, Defect
from topology.allotment import Allotment
from topology.plan import DevicePlan, Plan

OUTCOMES_DISCARDED = ("late", "surplus", "stale", "refused")
LAPSES_MAX = 400  # listed of one kind from one source; the first of them tell what was wrong
Span = tuple[float, float | None]  # from, to; to is None while it lasts


@dataclass(slots=True)
class LinkRecord:
    """What hostd says of a device's link in one boot. `directions`: up and down, requested, effective,
    error, ok.
    """

    boot: str
    backend: str = ""
    applied_at: float | None = None
    ok: bool | None = None
    directions: dict[str, dict[str, object]] = field(default_factory=dict)

    @property
    def rates(self) -> bool:
        """Whether rates were measured, not only delays."""
        effective = [way.get("effective") for way in self.directions.values()]
        return any(isinstance(found, dict) and found.get("rate_bit_s") is not None for found in effective)


@dataclass(slots=True)
class CpuRecord:
    requested: float | None
    effective: float | None
    error: float | None
    ok: bool | None


@dataclass(slots=True)
class Counters:
    """Totals over all boots of a device: counters that began again from 0 are added up."""

    totals: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)

    def add(self, sample: dict[str, float]) -> None:
        for key, value in sample.items():
            before = self.last.get(key)
            step = value - before if before is not None and value >= before else value
            self.totals[key] = self.totals.get(key, 0.0) + step
            self.last[key] = value


@dataclass(slots=True)
class DeviceRecord:
    plan: DevicePlan
    heard: bool = False  # it has a history of its own
    boots: list[str] = field(default_factory=list)  # as it told the coordinator
    own_boots: set[str] = field(default_factory=set)  # of its own history
    software: str = ""
    peak_rss_bytes: int = 0
    links: list[LinkRecord] = field(default_factory=list)
    cpu: CpuRecord | None = None
    cpu_counters: Counters = field(default_factory=Counters)
    link_counters: Counters = field(default_factory=Counters)
    gates_at: list[float] = field(default_factory=list)
    connected_at: list[float] = field(default_factory=list)
    # As the coordinator saw it, after the first time online.
    offline: list[Span] = field(default_factory=list)
    dead: list[Span] = field(default_factory=list)  # as hostd saw it
    watched: Span | None = None  # from the first sample of its CPU to the last
    charges: list[tuple[float, float]] = field(default_factory=list)  # moment, share of a full battery
    power_offs: list[tuple[float, str, str]] = field(default_factory=list)  # moment, effect, reason
    downlink_bytes: int = 0  # model objects fetched, as the device says
    graph_bytes: int = 0  # of them training graphs
    probe_answers: int = 0
    probe_uplink_bytes: int = 0  # of its answers
    probe_downlink_bytes: int = 0  # part of `downlink_bytes`
    # Tasks that a version was fetched for, maybe as several objects.
    fetched_for: set[str] = field(default_factory=set)
    # (task, sha256): bytes, as float32
    encoded: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    traffic: dict[str, dict[str, int]] = field(default_factory=dict)  # by boot, the last that was said
    wire_source: str = ""
    refused_messages: int = 0

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def run_delay_share(self) -> float | None:
        """Of the time it was watched: how long it waited for a CPU without its quota being the reason."""
        waited = self.cpu_counters.totals.get("run_delay_s")
        if waited is None or self.watched is None or self.watched[1] is None:
            return None
        seconds = self.watched[1] - self.watched[0]
        return waited / seconds if seconds > 0 else None

    @property
    def link(self) -> LinkRecord | None:
        """The one to show: of the last measurement of each boot one that is off, or else the last with rates.

        After a restart of the broker only delays are measured again, so the last one may lack the rates.
        """
        measured = list({link.boot: link for link in self.links if link.ok is not None}.values())
        if off := [link for link in measured if not link.ok]:
            return off[-1]
        with_rates = [link for link in self.links if link.ok is not None and link.rates]
        return next(iter([*with_rates[::-1], *measured[::-1], *self.links[::-1]]), None)


@dataclass(slots=True)
class TaskRecord:
    id: str
    agent: str
    round: int | None = None
    version: int | None = None
    opened_at: float | None = None
    closed_at: float | None = None
    offered_at: float | None = None
    granted_at: float | None = None
    received_at: float | None = None
    journalled_at: float | None = None
    acked_at: float | None = None
    state: str = ""
    reason: str = ""
    sha256: str = ""
    bytes: int = 0
    payload_bytes: int = 0
    chunks: int = 0
    raw_bytes: int = 0  # the same update in float32
    report: dict[str, object] = field(default_factory=dict)
    compression: dict[str, object] = field(default_factory=dict)  # what `auto` chose for it
    merged_in: list[int] = field(default_factory=list)
    weight: float | None = None
    discarded: str = ""  # outcome
    discard_reason: str = ""
    # The agent's own testimony:
    agent_acked: dict[str, float] = field(default_factory=dict)  # sha256 → when
    sent_payload_bytes: int = 0
    resent_chunks: int = 0
    settled: str = ""
    encoded: dict[str, object] = field(default_factory=dict)
    agent_marks: list[tuple[float, str]] = field(default_factory=list)  # when it entered a phase
    coordinator_marks: list[tuple[float, str]] = field(default_factory=list)

    @property
    def received(self) -> bool:
        return self.received_at is not None


@dataclass(slots=True)
class RoundRecord:
    number: int
    base_version: int | None = None
    version: int | None = None
    opened_at: float | None = None
    closed_at: float | None = None
    deadline_s: float | None = None
    quorum: int | None = None
    target: int | None = None  # updates that make it complete
    cohort: list[str] = field(default_factory=list)
    merged: int | None = None
    missing: list[str] = field(default_factory=list)
    reason: str = ""


@dataclass(slots=True)
class MergedUpdate:
    """One row of a version: what was added, from whom, how much it counted."""

    task: str
    agent: str
    sha256: str
    weight: float | None  # n·s
    samples: int | None = None
    factor: float | None = None  # s(τ)
    base_version: int | None = None  # trained on
    staleness: int | None = None  # τ


@dataclass(slots=True)
class VersionRecord:
    version: int
    sha256: str
    round: int | None
    committed_at: float
    boot: str  # of the coordinator that says so
    updates: list[MergedUpdate] = field(default_factory=list)
    published_bytes: int = 0


@dataclass(slots=True)
class Evaluation:
    version: int
    round: int | None
    at: float
    accuracy: float | None  # a regression has none
    loss: float | None
    samples: int
    per_class: list[float | None] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)  # f1, mse, perplexity
    confusion: list[list[int]] = field(default_factory=list)  # [true][predicted]


@dataclass(slots=True)
class LocalTest:
    """What one model came to on a device's own tests, as the device says and the coordinator found plausible."""

    samples: int
    loss: float
    accuracy: float | None  # a regression has none


@dataclass(slots=True)
class LocalEvaluation:
    """A version on one device's own tests, beside the model that the device made of it."""

    agent: str
    version: int
    round: int | None  # None: the survey at the end
    received: LocalTest | None
    personal: LocalTest | None

    @property
    def used(self) -> LocalTest | None:
        """The model that this device would use."""
        return self.personal if self.personal is not None else self.received


@dataclass(slots=True)
class Drift:
    """How far one merged update went, and how much of it was the direction of its version's mean."""

    version: int
    agent: str
    norm: float
    cosine: float | None  # None: one of the two is zero


@dataclass(slots=True)
class FaultRecord:
    id: str
    kind: str = ""
    targets: list[str] = field(default_factory=list)
    trigger: str = ""
    heal_after_s: float | None = None
    planned: bool = True
    applied_at: float | None = None
    lateness_s: float | None = None
    verified: bool | None = None
    detail: str = ""
    healed_at: float | None = None
    heal_s: float | None = None
    # The run was over before the heal was due, so its targets were not started again.
    left_stopped: bool = False
    overlapped: list[str] = field(default_factory=list)  # tasks of its targets that were open while it lasted


@dataclass(slots=True)
class Lapse:
    """A limit that was not held, whoever noticed it."""

    what: str
    node: str
    requested: str
    effective: str
    detail: str
    at: float | None
    source: str


@dataclass(slots=True)
class Record:
    plan: Plan
    devices: dict[str, DeviceRecord]
    rounds: dict[int, RoundRecord] = field(default_factory=dict)
    tasks: dict[str, TaskRecord] = field(default_factory=dict)
    versions: list[VersionRecord] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    local: dict[tuple[str, int], LocalEvaluation] = field(default_factory=dict)  # by device and version
    drift: dict[tuple[int, str], Drift] = field(default_factory=dict)  # by version and task
    faults: dict[str, FaultRecord] = field(default_factory=dict)
    lapses: list[Lapse] = field(default_factory=list)  # listed ones; `keep_lapse` adds to them
    lapse_counts: Counter[tuple[str, str]] = field(default_factory=Counter)  # (what, source): all there were
    defects: list[Defect] = field(default_factory=list)
    producers: set[str] = field(default_factory=set)
    event_count: int = 0
    began_at: float | None = None  # of the trusted producers, first and last
    ended_at: float | None = None
    began_wall_s: float | None = None  # Unix time
    parameters: int = 0
    probes: set[str] = field(default_factory=set)  # tasks that asked for a loss, each of many devices
    epochs: int = 0  # boots of the coordinator
    run_started_at: float | None = None
    run_finished_at: float | None = None
    finish_reason: str = ""
    hostd_heard: bool = False
    ready_at: float | None = None
    backend: str = ""
    backend_reason: str = ""
    environment: dict[str, object] = field(default_factory=dict)
    data: Allotment | None = None  # the table of who got what
    baselines: Baselines | None = None  # `edgerig baseline` has made some
    phases: dict[str, float] = field(default_factory=dict)  # as the runner measured them
    interrupted_by: str = ""
    down_reason: str = ""
    broker_dropped: int | None = None
    cleaned_by: set[str] = field(default_factory=set)  # producers that said what was left on the host
    left_behind: list[str] = field(default_factory=list)
    foreign_events: int = 0  # events a producer had no business writing

    def since(self, at: float) -> float:
        """Seconds since the run's first event; never outside the run, whatever a device's clock says."""
        begin = self.began_at if self.began_at is not None else at
        end = self.ended_at if self.ended_at is not None else at
        return min(max(at, begin), max(begin, end)) - begin

    def keep_lapse(self, lapse: Lapse) -> None:
        """Each kind is counted for itself, so that a flood of one never hides another."""
        kind = (lapse.what, lapse.source)
        self.lapse_counts[kind] += 1
        if self.lapse_counts[kind] <= LAPSES_MAX:
            self.lapses.append(lapse)

    @property
    def unread(self) -> set[str]:
        """Producers whose history was read in part only: what they would have counted is not known."""
        return {defect.node for defect in self.defects if defect.kind == UNREAD}

    @property
    def received(self) -> list[TaskRecord]:
        return [task for task in self.tasks.values() if task.received]

    @property
    def closed_rounds(self) -> list[RoundRecord]:
        return [self.rounds[n] for n in sorted(self.rounds) if self.rounds[n].closed_at is not None]

    @property
    def final(self) -> Evaluation | None:
        """The evaluation of the newest version that has one."""
        return max(self.evaluations, key=lambda e: (e.version, e.at), default=None)


def empty_record(plan: Plan) -> Record:
    record = Record(plan=plan, devices={device.name: DeviceRecord(device) for device in plan.devices})
    for fault in plan.faults:
        record.faults[fault.id] = FaultRecord(
            id=fault.id,
            kind=fault.kind,
            targets=list(fault.targets),
            trigger=fault.trigger.text,
            heal_after_s=fault.heal_after_s,
        )
    return record


def span(record: Record, events: list[Event], trusted: frozenset[str]) -> None:
    """First and last moment of the run, by the host's own witnesses; a device's clock may be anything."""
    own = [event for event in events if event.node in trusted] or events
    if own:
        first = min(own, key=lambda event: event.mono_s)
        record.began_at, record.began_wall_s = first.mono_s, first.wall_s or None
        record.ended_at = max(event.mono_s for event in own)
