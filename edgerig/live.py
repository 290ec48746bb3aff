"""What a run is doing right now, put together from its events as they come. Pure: no clock, no terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from history.events import COORDINATOR, HOST_NODES, Event
from history.fields import count, flag, integer, mappings, number, strings, text
from topology.plan import Plan

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
TEXT_MAX = 300  # of one value on the terminal


def clean(value: object) -> str:
    """Text for a terminal: a device's words must not move the cursor, set titles or fill the screen."""
    shown = _CONTROL.sub("\ufffd", str(value))
    return shown if len(shown) <= TEXT_MAX else shown[: TEXT_MAX - 1] + "…"


@dataclass(slots=True)
class LiveDevice:
    name: str
    group: str
    phase: str = "starting"
    since: float | None = None  # monotonic
    merged: int = 0
    discarded: int = 0
    bytes: int = 0
    link_ok: bool | None = None
    cpu_ok: bool | None = None

    def enter(self, phase: str, at: float) -> None:
        if phase != self.phase:
            self.phase, self.since = phase, at


@dataclass(slots=True)
class Waiting:
    agent: str
    phase: str
    since: float | None  # monotonic
    until: float | None


@dataclass(slots=True)
class Live:
    plan: Plan
    devices: dict[str, LiveDevice]
    began: float | None = None
    stage: str = "bringing up"
    round: int = 0
    deadline: float | None = None
    cohort: int = 0
    target: int = 0  # updates that make the version complete
    stale: str = ""  # of the version committed last: how old its updates were, if they were
    offered: int = 0
    received: int = 0
    accuracy: list[float] = field(default_factory=list)
    bytes: int = 0
    raw_bytes: int = 0
    raw_of_task: dict[str, int] = field(default_factory=dict)
    agent_of_task: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)  # fault → kind and targets, while it lasts
    faults_healed: int = 0
    waiting: list[Waiting] = field(default_factory=list)
    lapses: int = 0

    def device(self, event: Event, key: str = "agent") -> LiveDevice | None:
        return self.devices.get(text(event, key))

    @property
    def verified(self) -> tuple[int, int]:
        """Devices whose link and quota were measured and held, of all."""
        return sum(d.link_ok is True and d.cpu_ok is True for d in self.devices.values()), len(self.devices)


def make_live(plan: Plan) -> Live:
    return Live(plan, {device.name: LiveDevice(device.name, device.group) for device in plan.devices})


def apply(live: Live, event: Event) -> None:
    """Add one event. Only the host's own witnesses count; what agents say themselves is for the report."""
    if live.began is None:
        live.began = event.mono_s
    trusted = event.node == COORDINATOR or event.node in HOST_NODES
    handler = _HANDLERS.get(event.event)
    if trusted and handler is not None:
        handler(live, event)


_Handler = Callable[[Live, Event], None]
_HANDLERS: dict[str, _Handler] = {}


def _on(*names: str) -> Callable[[_Handler], _Handler]:
    def register(handler: _Handler) -> _Handler:
        for name in names:
            _HANDLERS[name] = handler
        return handler

    return register


# --- host -------------------------------------------------------------------------------------------------------------


@_on("link_applied")
def _link_applied(live: Live, event: Event) -> None:
    device = live.device(event, "device")
    if device is not None and not live.round:
        live.stage = "shaping links"
        device.enter("shaping", event.mono_s)


@_on("link_verified")
def _link_verified(live: Live, event: Event) -> None:
    device = live.device(event, "device")
    if device is not None:
        device.link_ok = flag(event, "ok")
        if not live.round:
            live.stage = "measuring links and quotas"
            device.enter("link measured", event.mono_s)


@_on("cpu_verified")
def _cpu_verified(live: Live, event: Event) -> None:
    device = live.device(event, "device")
    if device is not None:
        device.cpu_ok = flag(event, "ok")
        if not live.round:
            device.enter("verified", event.mono_s)


@_on("gate_opened")
def _gate_opened(live: Live, event: Event) -> None:
    device = live.device(event, "node")
    if device is not None:
        device.enter("joining", event.mono_s)


@_on("ready")
def _ready(live: Live, event: Event) -> None:
    if not live.round:
        live.stage = "waiting for agents"


@_on("container_died")
def _container_died(live: Live, event: Event) -> None:
    device = live.device(event, "node")
    if device is not None:
        device.enter("dead" if live.stage != "finished" else "gone", event.mono_s)


@_on("container_started")
def _container_started(live: Live, event: Event) -> None:
    device = live.device(event, "node")
    if device is not None and device.phase == "dead":
        device.enter("restarting", event.mono_s)


@_on("fault_applied")
def _fault_applied(live: Live, event: Event) -> None:
    live.faults[text(event, "fault")] = f"{text(event, 'kind')} {', '.join(strings(event, 'targets'))}"


@_on("fault_healed")
def _fault_healed(live: Live, event: Event) -> None:
    if live.faults.pop(text(event, "fault"), None) is not None:
        live.faults_healed += 1


@_on("lapse")
def _lapse(live: Live, event: Event) -> None:
    live.lapses += 1


# --- coordinator ------------------------------------------------------------------------------------------------------


@_on("agent_online")
def _agent_online(live: Live, event: Event) -> None:
    device = live.device(event)
    if device is not None:
        device.enter("idle", event.mono_s)


@_on("agent_offline")
def _agent_offline(live: Live, event: Event) -> None:
    device = live.device(event)
    if device is not None and device.phase != "dead":
        device.enter("offline" if live.stage != "finished" else "gone", event.mono_s)


@_on("round_opened")
def _round_opened(live: Live, event: Event) -> None:
    live.round = integer(event, "round") or live.round
    live.cohort, live.offered, live.received = len(strings(event, "cohort")), 0, 0
    live.target = integer(event, "target") or live.cohort
    deadline_s = number(event, "deadline_s")
    live.deadline = event.mono_s + deadline_s if deadline_s is not None else None
    live.stage = "training"
    live.waiting.clear()


@_on("round_closed")
def _round_closed(live: Live, event: Event) -> None:
    live.stage, live.deadline = "between rounds", None
    live.waiting.clear()


@_on("task_opened")
def _task_opened(live: Live, event: Event) -> None:
    live.agent_of_task[text(event, "task")] = text(event, "agent")
    device = live.device(event)
    if device is not None:
        device.enter("sent", event.mono_s)


@_on("task_progress")
def _task_progress(live: Live, event: Event) -> None:
    device = live.device(event)
    if device is not None and text(event, "phase"):
        device.enter(text(event, "phase"), event.mono_s)


@_on("update_offered")
def _update_offered(live: Live, event: Event) -> None:
    live.offered += 1
    report = event.get("report")
    if isinstance(report, dict):
        live.raw_of_task[text(event, "task")] = count(report, "raw_bytes")
    device = live.device(event)
    if device is not None:
        device.enter("waiting", event.mono_s)


@_on("update_granted")
def _update_granted(live: Live, event: Event) -> None:
    device = live.device(event)
    if device is not None:
        device.enter("uploading", event.mono_s)


@_on("update_received")
def _update_received(live: Live, event: Event) -> None:
    size = count(event, "payload_bytes")
    live.received += 1
    live.bytes += size
    live.raw_bytes += live.raw_of_task.pop(text(event, "task"), 0)
    device = live.device(event)
    if device is not None:
        device.bytes += size
        device.enter("done", event.mono_s)


@_on("version_committed")
def _version_committed(live: Live, event: Event) -> None:
    ages = [count(item, "staleness") for item in mappings(event, "updates")]
    live.stale = f", up to {max(ages)} versions old" if any(ages) else ""


@_on("update_discarded")
def _update_discarded(live: Live, event: Event) -> None:
    device = live.device(event)
    if device is not None:
        device.discarded += 1


@_on("task_closed")
def _task_closed(live: Live, event: Event) -> None:
    live.agent_of_task.pop(text(event, "task"), None)
    live.raw_of_task.pop(text(event, "task"), None)
    device = live.device(event)
    if device is None:
        return
    device.merged += text(event, "state") == "merged"
    if device.phase not in ("dead", "offline", "restarting"):
        device.enter("idle", event.mono_s)


@_on("evaluated")
def _evaluated(live: Live, event: Event) -> None:
    accuracy = number(event, "accuracy")
    if accuracy is not None:
        live.accuracy.append(accuracy)


@_on("waiting")
def _waiting(live: Live, event: Event) -> None:
    live.waiting = []
    for item in mappings(event, "for"):
        since_s, until_s = number(item, "since_s"), number(item, "until_s")
        live.waiting.append(
            Waiting(
                agent=text(item, "agent"),
                phase=text(item, "phase"),
                since=event.mono_s - since_s if since_s is not None else None,
                until=event.mono_s + until_s if until_s is not None else None,
            )
        )


@_on("run_finished")
def _run_finished(live: Live, event: Event) -> None:
    live.stage, live.deadline = "finished", None
    live.waiting.clear()


@_on("interrupted")
def _interrupted(live: Live, event: Event) -> None:
    live.stage = "interrupted, tearing down"
