"""What a device says of itself: the second witness of every task. Only about its own tasks."""

from __future__ import annotations

from history.derive.handlers import Handlers, task_of
from history.events import Event
from history.fields import count, integer, text
from history.record import Record, TaskRecord

HANDLERS = Handlers()

# The event that ends a phase begins the next one.
_PHASE_AFTER = {
    "task_received": "fetching",
    "model_fetched": "training",
    "trained": "encoding",
    "encoded": "waiting",
    "sent": "settling",
}
_IN_ITS_OFFER = "uploading"  # such an update is only on its way; that it is there the coordinator says


def _task(record: Record, event: Event) -> TaskRecord | None:
    return task_of(record, event, event.node)


@HANDLERS.on("agent_started")
def agent_started(record: Record, event: Event) -> None:
    device = record.devices[event.node]
    device.heard = True
    device.software = text(event, "software") or device.software
    device.own_boots.add(event.boot)


@HANDLERS.on("gate_passed")
def gate_passed(record: Record, event: Event) -> None:
    record.devices[event.node].heard = True


@HANDLERS.on("connected")
def connected(record: Record, event: Event) -> None:
    record.devices[event.node].connected_at.append(event.mono_s)


@HANDLERS.on("agent_stopped")
def agent_stopped(record: Record, event: Event) -> None:
    device = record.devices[event.node]
    device.peak_rss_bytes = max(device.peak_rss_bytes, count(event, "peak_rss_bytes"))


def _mark(task: TaskRecord | None, event: Event, phase: str = "") -> None:
    """A model can come as several objects: training begins after the last of them."""
    if task is None:
        return
    phase = phase or _PHASE_AFTER[event.event]
    if event.event == "model_fetched" and task.agent_marks and task.agent_marks[-1][1] == phase:
        task.agent_marks.pop()
    task.agent_marks.append((event.mono_s, phase))


@HANDLERS.on("task_received")
def task_received(record: Record, event: Event) -> None:
    record.devices[event.node].heard = True
    _mark(_task(record, event), event)


@HANDLERS.on("model_fetched")
def model_fetched(record: Record, event: Event) -> None:
    device = record.devices[event.node]
    device.downlink_bytes += count(event, "bytes")
    if text(event, "task") in record.probes:
        device.probe_downlink_bytes += count(event, "bytes")
    if text(event, "object").startswith("graph-"):
        device.graph_bytes += count(event, "bytes")
    else:
        device.fetched_for.add(text(event, "task"))
    _mark(_task(record, event), event)


@HANDLERS.on("trained")
def trained(record: Record, event: Event) -> None:
    device = record.devices[event.node]
    device.peak_rss_bytes = max(device.peak_rss_bytes, count(event, "peak_rss_bytes"))
    _mark(_task(record, event), event)


@HANDLERS.on("encoded")
def encoded(record: Record, event: Event) -> None:
    task = _task(record, event)
    _mark(task, event)
    if task is None:
        return
    task.encoded = {**event.fields}
    made = (count(event, "bytes"), count(event, "raw_bytes"))
    record.devices[event.node].encoded[task.id, text(event, "sha256")] = made
    task.raw_bytes = task.raw_bytes or made[1]


@HANDLERS.on("sent")
def sent(record: Record, event: Event) -> None:
    task = _task(record, event)
    _mark(task, event, "" if count(event, "chunks") else _IN_ITS_OFFER)
    if task is not None:
        task.sent_payload_bytes += count(event, "payload_bytes")
        task.resent_chunks += count(event, "resent")


@HANDLERS.on("acked")
def acked(record: Record, event: Event) -> None:
    task = _task(record, event)
    if task is not None:
        task.agent_acked.setdefault(text(event, "sha256"), event.mono_s)


@HANDLERS.on("settled")
def settled(record: Record, event: Event) -> None:
    task = _task(record, event)
    if task is not None:
        task.settled = text(event, "outcome")


@HANDLERS.on("traffic")
def traffic(record: Record, event: Event) -> None:
    device = record.devices[event.node]
    figures = ("mqtt_sent", "mqtt_received", "wire_sent", "wire_received")
    device.traffic[event.boot] = {
        name: value for name in figures if (value := integer(event, name)) is not None and value >= 0
    }
    device.wire_source = text(event, "wire") or device.wire_source
