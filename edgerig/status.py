"""What a run is doing now and whom it waits for, read from the history files alone (so it works on any run)."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, field

from history.events import Event
from history.fields import number
from history.reader import read_history
from topology.plan import Plan


class DeviceStatus(Struct):
    """One device as the coordinator last knew it."""

    name: str
    online: bool = False
    task: str = ""
    phase: str = ""
    since_s: float | None = None  # how long it has been in this phase, by the newest event of the run


class RunStatus(Struct):
    run: str
    state: str = "starting"  # starting | measuring | running | finished
    round: int = 0
    rounds: int = 0
    version: int = 0
    accuracy: float | None = None
    waiting: list[dict[str, object]] = field(default_factory=list)
    devices: list[DeviceStatus] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    lapses: int = 0

    def text(self) -> str:
        accuracy = "" if self.accuracy is None else f", accuracy {self.accuracy:.4f}"
        lines = [
            f"{self.run}: {self.state}, round {self.round} of {self.rounds}, version {self.version}{accuracy}"
        ]
        for entry in self.waiting:
            lines.append("  waiting for " + " ".join(f"{key}={value}" for key, value in entry.items()))
        for device in self.devices:
            since = "" if device.since_s is None else f" for {device.since_s:.1f} s"
            lines.append(
                f"  {device.name:<16} {'online ' if device.online else 'offline'} {device.phase or '-'}{since}"
            )
        lines += [f"  fault {fault}" for fault in self.faults]
        if self.lapses:
            lines.append(f"  {self.lapses} lapses: the emulation did not hold everywhere (`edgerig report`)")
        return "\n".join(lines)


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
    status.devices = list(devices.values())
    return status


def _fold(status: RunStatus, devices: dict[str, DeviceStatus], since: dict[str, float], event: Event) -> None:
    match event.event:
        case "link_applied" if status.state == "starting":
            status.state = "measuring"
        case "round_opened":
            status.state, status.round = "running", int(str(event["round"]))
        case "evaluated":
            status.version, status.accuracy = int(str(event["version"])), number(event, "accuracy")
        case "waiting":
            status.waiting = list(event["for"])  # type: ignore[call-overload]
        case "round_closed" | "run_finished":
            status.waiting = []
            status.state = "finished" if event.event == "run_finished" else status.state
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
