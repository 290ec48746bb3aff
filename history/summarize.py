"""From the record of a run to its summary. Figures only; the words are the report's."""

from __future__ import annotations

import platform
import time
from collections import Counter
from importlib import metadata

from history import accounts, emulation, layers, local, privacy, probes, verdict
from history import summary as s
from history.checks import run_checks
from history.compression import compressions
from history.fields import flag, mapping, number
from history.record import DeviceRecord, FaultRecord, Record, TaskRecord
from topology.plan import Shape

MB = 1_000_000
_SOFTWARE = ("edgerig", "onnxruntime", "numpy", "paho-mqtt", "msgspec", "zstandard")


def summarize(record: Record, *, interrupted: bool = False) -> s.Summary:
    """Everything of `summary.json`, also of a run of which little is left."""
    plan, final, checks = record.plan, record.final, run_checks(record)
    judged = [verdict.judge(record, expectation) for expectation in plan.expect]
    decision = verdict.decide(record, judged, checks, interrupted)
    return s.Summary(
        run=plan.run,
        name=plan.name,
        verdict=decision.verdict,
        reasons=decision.reasons,
        runtime=plan.runtime,
        seed=plan.seed,
        topology_sha256=plan.topology_sha256,
        model=plan.model,
        dataset=plan.data.dataset,
        started_at=_iso(record.began_wall_s),
        finish_reason=record.finish_reason or None,
        final_accuracy=final.accuracy if final else None,
        final_loss=final.loss if final else None,
        final_metrics=dict(final.metrics) if final else {},
        per_class_accuracy=tuple(final.per_class) if final else (),
        confusion=tuple(tuple(row) for row in final.confusion) if final else (),
        rounds=len(record.closed_rounds),
        versions=len({version.version for version in record.versions}),
        wall_s=_rounded(accounts.wall_s(record)),
        phases=phases(record),
        uplink_bytes=accounts.uplink_bytes(record),
        uplink_bytes_float32=accounts.uplink_bytes_float32(record),
        uplink_ratio=_rounded(accounts.uplink_ratio(record), 2),
        uplink_bytes_sent=accounts.uplink_bytes_by_agents(record),
        downlink_bytes=sum(device.downlink_bytes for device in record.devices.values()),
        bytes=layers.total(record),
        probes=probes.summary(record),
        updates_merged=len(accounts.merged(record)),
        updates_discarded=_discarded(record),
        updates_lost=_lost(record),
        epsilon=_rounded(privacy.epsilon(record)),
        accuracy=tuple(curve(record)),
        local=local.summary(record),
        data=record.data,
        baselines=record.baselines,
        devices=tuple(_devices(record)),
        compression=tuple(compressions(record)),
        faults=tuple(_fault(record, fault) for fault in record.faults.values()),
        lapses=tuple(_lapses(record)),
        expectations=tuple(judged),
        checks=tuple(checks),
        emulation=_emulation(record),
        environment=record.environment,
        software=_software(record),
        event_count=record.event_count,
    )


def _lost(record: Record) -> int | None:
    lost = accounts.lost(record)
    return None if lost is None else len(lost)


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)


def _iso(wall_s: float | None) -> str | None:
    return None if wall_s is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall_s))


def phases(record: Record) -> dict[str, float]:
    """Wall seconds of the run's parts, from the marks in the history; then what the runner measured
    itself.
    """
    applied = [
        link.applied_at for d in record.devices.values() for link in d.links if link.applied_at is not None
    ]
    opened = [r.opened_at for r in record.rounds.values() if r.opened_at is not None]
    measure, first_round = min(applied, default=None), min(opened, default=None)
    marks = [
        ("bring_up", record.began_at, measure if measure is not None else first_round),
        ("measure", measure, record.ready_at),
        ("join", record.ready_at, first_round),
        ("training", first_round, record.run_finished_at),
        ("wind_up", record.run_finished_at, record.ended_at),
    ]
    found = {
        name: round(end - begin, 3) for name, begin, end in marks if begin is not None and end is not None
    }
    own = {name: round(wall_s, 3) for name, wall_s in record.phases.items() if name not in found}
    return {name: wall_s for name, wall_s in (found | own).items() if wall_s >= 0}


def curve(record: Record) -> list[s.CurvePoint]:
    """Accuracy over time, and over the bytes that had come in when the version was made."""
    received = sorted((t.received_at or 0.0, t.payload_bytes) for t in record.received)
    committed = {version.version: version.committed_at for version in record.versions}
    points = []
    for e in sorted(record.evaluations, key=lambda e: (e.version, e.at)):
        until = committed.get(e.version, e.at if e.version else float("-inf"))
        sent = sum(size for at, size in received if at <= until)
        points.append(
            s.CurvePoint(
                version=e.version,
                at_s=round(record.since(e.at), 3),
                accuracy=e.accuracy,
                loss=e.loss,
                uplink_bytes=sent,
                metrics=dict(e.metrics),
            )
        )
    return points


def _discarded(record: Record) -> dict[str, int]:
    counts: dict[str, int] = {}
    for task in record.tasks.values():
        if task.discarded:
            counts[task.discarded] = counts.get(task.discarded, 0) + 1
    return counts


def _devices(record: Record) -> list[s.DeviceSummary]:
    tasks: dict[str, list[TaskRecord]] = {}
    for task in record.tasks.values():
        tasks.setdefault(task.agent, []).append(task)
    return [_device(record, device, tasks.get(device.name, [])) for device in record.devices.values()]


def _device(record: Record, device: DeviceRecord, tasks: list[TaskRecord]) -> s.DeviceSummary:
    plan, cpu = device.plan, device.cpu
    received = [task for task in tasks if task.received]
    sent = sum(task.sent_payload_bytes for task in received)
    return s.DeviceSummary(
        name=device.name,
        group=plan.group,
        profile=plan.profile,
        cpu_requested=plan.cpus,
        cpu_effective=cpu.effective if cpu else None,
        cpu_error=cpu.error if cpu else None,
        cpu_ok=cpu.ok if cpu else None,
        throttled_share=_throttled(device),
        run_delay_share=None if device.run_delay_share is None else round(device.run_delay_share, 4),
        link=_link(device),
        peak_rss_mb=round(device.peak_rss_bytes / MB, 1) if device.peak_rss_bytes else None,
        memory_limit_mb=round(plan.memory_bytes / MB, 1),
        updates_merged=sum(bool(task.merged_in) for task in tasks),
        updates_discarded=sum(bool(task.discarded) for task in tasks),
        uplink_bytes=sum(task.payload_bytes for task in received),
        uplink_bytes_sent=sent if device.name in record.producers else None,
        downlink_bytes=device.downlink_bytes,
        bytes=layers.of_device(record, device),
        boots=max(len(device.boots), len(device.own_boots)),
        offline_s=round(offline_s(record, device), 3),
        messages_refused=device.refused_messages,
        power=_power(device),
    )


def _power(device: DeviceRecord) -> s.PowerSummary | None:
    if device.plan.battery is None and device.plan.availability is None:
        return None
    charges = [charge for _, charge in device.charges]
    return s.PowerSummary(
        charge_first=charges[0] if charges else None,
        charge_last=charges[-1] if charges else None,
        charge_min=min(charges, default=None),
        offs=dict(Counter(reason for _, _, reason in device.power_offs)),
    )


def offline_s(record: Record, device: DeviceRecord) -> float:
    """Away as the coordinator saw it or dead as the host saw it, until the run finished."""
    end = record.run_finished_at or record.ended_at or 0.0
    away, reached = 0.0, 0.0
    for begin, to in sorted([*device.offline, *device.dead], key=lambda span: span[0]):
        until = min(to if to is not None else end, end)
        away += max(0.0, until - max(begin, reached))
        reached = max(reached, until)
    return away


def _throttled(device: DeviceRecord) -> float | None:
    totals = device.cpu_counters.totals
    periods = totals.get("periods")
    return round(totals.get("throttled_periods", 0.0) / periods, 4) if periods else None


def _link(device: DeviceRecord) -> s.LinkSummary:
    link, plan = device.link, device.plan.link
    directions = link.directions if link else {}
    return s.LinkSummary(
        name=plan.name,
        backend=link.backend if link else "",
        verified=link.ok if link else None,
        up=_direction(plan.up, directions.get("up")),
        down=_direction(plan.down, directions.get("down")),
    )


def _direction(shape: Shape, measured: dict[str, object] | None) -> s.Direction:
    planned = s.Quantities(
        rate_bit_s=shape.rate_bit_s, delay_s=shape.delay_s, jitter_s=shape.jitter_s, loss=shape.loss
    )
    if not measured:
        return s.Direction(requested=planned, effective=None, error=None, ok=None)
    return s.Direction(
        requested=_quantities(mapping(measured, "requested")) or planned,
        effective=_quantities(mapping(measured, "effective")),
        error=_quantities(mapping(measured, "error")),
        ok=flag(measured, "ok"),
    )


def _quantities(values: dict[str, object]) -> s.Quantities | None:
    if not values:
        return None
    return s.Quantities(
        rate_bit_s=number(values, "rate_bit_s" if "rate_bit_s" in values else "rate"),
        delay_s=number(values, "delay_s"),
        delay_p99_s=number(values, "delay_p99_s"),
        jitter_s=number(values, "jitter_s"),
        loss=number(values, "loss"),
    )


def _fault(record: Record, fault: FaultRecord) -> s.FaultSummary:
    applied, healed = fault.applied_at, fault.healed_at
    return s.FaultSummary(
        id=fault.id,
        kind=fault.kind,
        targets=tuple(fault.targets),
        trigger=fault.trigger,
        planned=fault.planned,
        applied=applied is not None,
        verified=fault.verified,
        healed=healed is not None,
        at_s=round(record.since(applied), 3) if applied is not None else None,
        lateness_s=fault.lateness_s,
        lasted_s=round(healed - applied, 3) if applied is not None and healed is not None else None,
        overlapped=bool(fault.overlapped) if applied is not None else None,
        detail=fault.detail + (" (left stopped: the run was over)" if fault.left_stopped else ""),
    )


def _lapses(record: Record) -> list[s.LapseSummary]:
    return [
        s.LapseSummary(
            what=lapse.what,
            node=lapse.node,
            requested=lapse.requested,
            effective=lapse.effective,
            detail=lapse.detail,
            at_s=round(record.since(lapse.at), 3) if lapse.at is not None else None,
            source=lapse.source,
        )
        for lapse in record.lapses
    ]


def _emulation(record: Record) -> s.Emulation:
    return s.Emulation(
        backend=record.backend or None,
        reason=record.backend_reason,
        held=emulation.held(record),
        problems=tuple(emulation.problems(record)),
    )


def _software(record: Record) -> dict[str, str]:
    """Of this machine, and what the agents called themselves."""
    found = {"python": platform.python_version()}
    for name in _SOFTWARE:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    agents = sorted({device.software for device in record.devices.values() if device.software})
    return found | ({"agents": ", ".join(agents)} if agents else {})
