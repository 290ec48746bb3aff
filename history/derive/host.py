"""What the host's services say (hostd, the process runtime, the runner): links, quotas, faults, phases."""

from __future__ import annotations

from history.derive.handlers import Handlers
from history.events import Event
from history.fields import flag, mapping, number, strings, text
from history.record import CpuRecord, DeviceRecord, FaultRecord, LinkRecord, Record, TaskRecord

HANDLERS = Handlers()
_NEVER = float("inf")


def _device(record: Record, event: Event, key: str = "device") -> DeviceRecord | None:
    return record.devices.get(text(event, key))


@HANDLERS.on("probed")
def probed(record: Record, event: Event) -> None:
    record.hostd_heard = record.hostd_heard or event.node == "hostd"
    record.backend, record.backend_reason = text(event, "backend"), text(event, "reason")
    record.environment |= {k: v for k, v in event.fields.items() if k not in ("backend", "reason")}


@HANDLERS.on("up")
def up(record: Record, event: Event) -> None:
    """What the runner started: images by digest, compose or the broker of the process runtime."""
    record.environment |= event.fields


@HANDLERS.on("ready")
def ready(record: Record, event: Event) -> None:
    record.ready_at = event.mono_s


@HANDLERS.on("phase")
def phase(record: Record, event: Event) -> None:
    wall_s = number(event, "wall_s")
    if wall_s is not None and text(event, "name"):
        record.phases[text(event, "name")] = wall_s


@HANDLERS.on("interrupted")
def interrupted(record: Record, event: Event) -> None:
    record.interrupted_by = text(event, "signal") or "a signal"


@HANDLERS.on("down")
def down(record: Record, event: Event) -> None:
    record.down_reason = text(event, "reason")


@HANDLERS.on("healed_all", "cleaned")
def cleaned(record: Record, event: Event) -> None:
    """What the producer found left over when it had taken everything away."""
    if "left" in event.fields:
        record.cleaned_by.add(event.node)
        record.left_behind += strings(event, "left")


# --- devices ------------------------------------------------------------------------------------------------


@HANDLERS.on("container_died")
def container_died(record: Record, event: Event) -> None:
    device = _device(record, event, "node")
    over = record.run_finished_at is not None  # at the end they all end
    if device is not None and not over and not (device.dead and device.dead[-1][1] is None):
        device.dead.append((event.mono_s, None))


@HANDLERS.on("container_started")
def container_started(record: Record, event: Event) -> None:
    device = _device(record, event, "node")
    if device is not None and device.dead and device.dead[-1][1] is None:
        device.dead[-1] = (device.dead[-1][0], event.mono_s)


@HANDLERS.on("gate_opened")
def gate_opened(record: Record, event: Event) -> None:
    device = _device(record, event, "node")
    if device is not None:
        device.gates_at.append(event.mono_s)


@HANDLERS.on("link_applied")
def link_applied(record: Record, event: Event) -> None:
    device = _device(record, event)
    if device is not None:
        backend, boot = text(event, "backend"), text(event, "device_boot") or text(event, "boot")
        device.links.append(LinkRecord(boot=boot, backend=backend, applied_at=event.mono_s))


@HANDLERS.on("link_verified")
def link_verified(record: Record, event: Event) -> None:
    device = _device(record, event)
    if device is None:
        return
    if not device.links:
        device.links.append(LinkRecord(boot=text(event, "boot")))
    link = device.links[-1]
    directions = mapping(event, "directions")
    link.directions = {way: mapping(directions, way) for way in ("up", "down") if mapping(directions, way)}
    link.ok, link.boot = flag(event, "ok"), text(event, "boot") or link.boot


@HANDLERS.on("cpu_verified")
def cpu_verified(record: Record, event: Event) -> None:
    device = _device(record, event)
    if device is not None:
        device.cpu = CpuRecord(
            number(event, "requested"), number(event, "effective"), number(event, "error"), flag(event, "ok")
        )


_CPU_COUNTERS = ("usage_s", "throttled_s", "periods", "throttled_periods", "run_delay_s")
_LINK_COUNTERS = ("up_bytes", "down_bytes", "up_packets", "down_packets", "dropped")


def _sample(event: Event, keys: tuple[str, ...]) -> dict[str, float]:
    return {key: value for key in keys if (value := number(event, key)) is not None and value >= 0}


@HANDLERS.on("cpu_sample")
def cpu_sample(record: Record, event: Event) -> None:
    device = _device(record, event)
    if device is not None:
        device.cpu_counters.add(_sample(event, _CPU_COUNTERS))
        device.watched = (device.watched[0] if device.watched else event.mono_s, event.mono_s)


@HANDLERS.on("link_sample")
def link_sample(record: Record, event: Event) -> None:
    device = _device(record, event)
    if device is not None:
        device.link_counters.add(_sample(event, _LINK_COUNTERS))


# --- faults -------------------------------------------------------------------------------------------------


def _fault(record: Record, event: Event) -> FaultRecord:
    name = text(event, "fault")
    fault = record.faults.setdefault(name, FaultRecord(id=name, planned=False))
    fault.kind = fault.kind or text(event, "kind")
    fault.targets = strings(event, "targets") or fault.targets
    return fault


@HANDLERS.on("fault_armed")
def fault_armed(record: Record, event: Event) -> None:
    fault = _fault(record, event)
    if not fault.planned:  # by hand
        fault.trigger, fault.heal_after_s = text(event, "trigger"), number(event, "heal_after_s")


@HANDLERS.on("fault_applied")
def fault_applied(record: Record, event: Event) -> None:
    fault = _fault(record, event)
    if fault.applied_at is None:
        fault.applied_at, fault.lateness_s = event.mono_s, number(event, "lateness_s")


@HANDLERS.on("fault_verified")
def fault_verified(record: Record, event: Event) -> None:
    fault = _fault(record, event)
    fault.verified, fault.detail = flag(event, "ok"), text(event, "detail")


@HANDLERS.on("fault_healed")
def fault_healed(record: Record, event: Event) -> None:
    fault = _fault(record, event)
    fault.left_stopped = flag(event, "left_stopped") is True
    if not fault.left_stopped:
        fault.healed_at, fault.heal_s = event.mono_s, number(event, "wall_s")


def overlaps(record: Record) -> None:
    """Which tasks were open while a fault lasted: a fault that met none has tested nothing."""
    for fault in record.faults.values():
        if fault.applied_at is None:
            continue
        end = fault.healed_at if fault.healed_at is not None else _NEVER
        fault.overlapped = [
            t.id for t in record.tasks.values() if _met(t, record, fault, fault.applied_at, end)
        ]


def _met(task: TaskRecord, record: Record, fault: FaultRecord, begin: float, end: float) -> bool:
    """A fault of the broker, the coordinator or a host meets everybody's tasks."""
    named = task.agent in fault.targets or any(target not in record.devices for target in fault.targets)
    closed = task.closed_at if task.closed_at is not None else _NEVER
    return named and task.opened_at is not None and task.opened_at < end and closed > begin
