"""What a run is doing now and whom it waits for, from its history files; and whether anybody drives it still."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from compose.session import hold_of
from history.events import Event
from history.fields import integer, mappings, number
from history.reader import read_history
from history.summary import SUMMARY_NAME
from topology.plan import Plan

ENDED, DEAD = "ended", "dead"


class DeviceStatus(Struct):
    """One device as the coordinator last knew it."""

    name: str
    online: bool = False
    task: str = ""
    phase: str = ""
    since_s: float | None = None  # how long it has been in this phase, by the newest event of the run


class RunStatus(Struct):
    run: str
    state: str = "starting"  # starting | measuring | running | finished | ended | dead
    verdict: str = ""  # of a run that nobody drives any more and that has its record
    round: int = 0
    rounds: int = 0
    version: int = 0
    accuracy: float | None = None
    waiting: list[dict[str, object]] = field(default_factory=list)
    waiting_age_s: float = 0.0  # how long ago the coordinator said so, by the newest event of the run
    # have, want, need: updates of the version that is made
    needs: dict[str, int] = field(default_factory=dict)
    devices: list[DeviceStatus] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    lapses: int = 0
    url: str = ""  # of the same over HTTP; empty when nobody serves it

    def text(self) -> str:
        accuracy = "" if self.accuracy is None else f", accuracy {self.accuracy:.4f}"
        lines = [
            f"{self.run}: {self.state}, round {self.round} of {self.rounds}, version {self.version}{accuracy}"
        ]
        if self.state in (ENDED, DEAD):
            lines.append(f"  {self._over()}")
        lines += self._why()
        for device in self.devices:
            since = "" if device.since_s is None else f" for {device.since_s:.1f} s"
            lines.append(
                f"  {device.name:<16} {'online ' if device.online else 'offline'} {device.phase or '-'}{since}"
            )
        lines += [f"  fault {fault}" for fault in self.faults]
        if self.lapses:
            lines.append(f"  {self.lapses} lapses: the emulation did not hold everywhere (`edgerig report`)")
        if self.url:
            lines.append(f"  {self.url}/status, {self.url}/metrics, {self.url}/healthz")
        return "\n".join(lines)

    def _over(self) -> str:
        if self.state == ENDED:
            return f"it came to no end of its own; verdict {self.verdict or 'unknown'}"
        return f"its runner is gone: `edgerig down {self.run}` writes its record"

    def _why(self) -> list[str]:
        """For whom the run waits, since when, until when, and what each one last said and when."""
        if not self.waiting:
            return []
        entry = self.needs
        have = f" for {entry['have']} of {entry['want']} updates" if {"have", "want"} <= entry.keys() else ""
        enough = (
            f" ({entry['need']} are enough at the deadline)"
            if entry.get("need", 0) != entry.get("want", 0)
            else ""
        )
        lines = [f"  waiting{have}{enough}, as of {self.waiting_age_s:.1f} s ago:"]
        return lines + [_awaited(item, self.version, self.waiting_age_s) for item in self.waiting]


def _awaited(item: dict[str, object], newest: int, age_s: float) -> str:
    """`age_s`: how long ago the coordinator said so; its times count from then."""
    since, until, heard = number(item, "since_s"), number(item, "until_s"), number(item, "heard_s")
    parts = [f"    {item.get('agent', '?'):<16} {item.get('phase', '?')}"]
    parts += [f"for {since + age_s:.0f} s"] if since is not None else []
    parts += [f"last heard of {heard + age_s:.0f} s ago"] if heard is not None else []
    parts += [f"at most {max(0.0, until - age_s):.0f} s more"] if until is not None else []
    version = number(item, "version")
    parts += [f"on version {version:.0f}"] if version is not None and version < newest else []
    return ", ".join(parts)


def describe(root: Path, plan: Plan) -> RunStatus:
    """Fold the history into a status."""
    status = RunStatus(run=plan.run, rounds=plan.training.rounds)
    devices = {device.name: DeviceStatus(name=device.name) for device in plan.devices}
    since: dict[str, float] = {}
    newest = 0.0
    for event in read_history(root).events:
        newest = max(newest, event.mono_s)
        if event.node in devices:
            continue  # what a device says of itself is no word about the run
        _fold(status, devices, since, event)
    for name, began in since.items():
        devices[name].since_s = round(newest - began, 1)
    status.waiting_age_s = round(newest - status.waiting_age_s, 1) if status.waiting else 0.0
    status.devices = list(devices.values())
    return status


def look(root: Path, plan: Plan) -> RunStatus:
    """Its status now: what its history tells, and whether anybody drives it still."""
    status = describe(root, plan)
    if hold_of(root) == "nobody":
        _bury(status, root)
    return status


def _bury(status: RunStatus, root: Path) -> None:
    """What only the living can be: a history does not say that its runner was killed."""
    summary = _summary(root)
    status.verdict = str(summary.get("verdict", ""))
    if status.state != "finished":
        status.state = ENDED if summary else DEAD
    status.waiting, status.url = [], ""
    for device in status.devices:
        device.online, device.since_s = False, None


def _summary(root: Path) -> dict[str, Any]:
    try:
        found = msgspec.json.decode((root / SUMMARY_NAME).read_bytes())
    except (OSError, msgspec.MsgspecError):
        return {}
    return found if isinstance(found, dict) else {}


def _fold(status: RunStatus, devices: dict[str, DeviceStatus], since: dict[str, float], event: Event) -> None:
    match event.event:
        case "link_applied" if status.state == "starting":
            status.state = "measuring"
        case "round_opened":
            status.state, status.round = "running", int(str(event["round"]))
            status.waiting = [
                item for item in status.waiting if item.get("task")
            ]  # nobody is absent any more
        case "version_committed":
            status.version = integer(event, "version") or status.version
        case "evaluated":
            status.accuracy = number(event, "accuracy")
        case "waiting":
            status.waiting = mappings(event, "for")
            status.needs = {k: n for k in ("have", "want", "need") if (n := integer(event, k)) is not None}
            status.waiting_age_s = event.mono_s
        case "status_served":
            status.url = str(event["url"])
        case "run_finished":
            status.waiting, status.state, status.url = [], "finished", ""
        case "update_acked" | "task_closed":
            over = event.get("task")
            status.waiting = [item for item in status.waiting if item.get("task") != over]
        case "fault_applied" | "fault_healed":
            status.faults.append(f"{event['fault']} {event.event.removeprefix('fault_')}")
        case "lapse":
            status.lapses += 1
    device = devices.get(str(event.get("agent", "")))
    if device is not None and event.node == "coordinator":
        _fold_device(device, since, event)


PHASES = {
    "task_opened": "assigned",
    "update_offered": "offered",
    "update_granted": "uploading",
    "update_acked": "acked",
    "task_closed": "",
}


def _fold_device(device: DeviceStatus, since: dict[str, float], event: Event) -> None:
    phase = PHASES.get(event.event)
    if event.event == "task_progress":
        phase = str(event["phase"])
    if event.event in ("agent_online", "agent_offline"):
        device.online = event.event == "agent_online"
    if phase is None or phase == device.phase:
        return
    device.phase, device.task = phase, str(event.get("task", ""))
    since[device.name] = event.mono_s
