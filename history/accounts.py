"""Both sides' accounts of the updates: what was acked, merged, discarded, and what it cost in bytes."""

from __future__ import annotations

from history.record import Record, TaskRecord

Update = tuple[str, str]  # task, sha256


def witnesses_missing(record: Record) -> list[str]:
    """Producers without whose whole history the accounts cannot be balanced."""
    wanted = {"coordinator"} | {task.agent for task in record.tasks.values() if task.opened_at is not None}
    gaps = {defect.node for defect in record.defects if defect.kind != "cut"}
    return sorted(name for name in wanted if name not in record.producers or name in gaps)


def acked(record: Record) -> set[Update]:
    """What either side says was acked. An ack that the device never saw is a promise all the same."""
    by_agents = {(task.id, sha) for task in record.tasks.values() for sha in task.agent_acked}
    by_coordinator = {(t.id, t.sha256) for t in record.tasks.values() if t.acked_at is not None and t.sha256}
    return by_agents | by_coordinator


def merged(record: Record) -> list[Update]:
    """In the order of the merges; an update that is in it twice was counted twice."""
    seen: set[tuple[int, str]] = set()
    result = []
    for version in record.versions:
        # A coordinator that restarts may tell of its last version again.
        if (version.version, version.sha256) not in seen:
            seen.add((version.version, version.sha256))
            result += [(update.task, update.sha256) for update in version.updates]
    return result


def discarded(record: Record) -> set[Update]:
    """Only with a known outcome and a reason."""
    return {(t.id, t.sha256) for t in record.tasks.values() if t.discarded and t.discard_reason}


def lost(record: Record) -> list[Update] | None:
    """Acked, but neither merged nor discarded with a reason; None when a witness is missing."""
    if witnesses_missing(record):
        return None
    return sorted(acked(record) - set(merged(record)) - discarded(record))


def duplicated(record: Record) -> list[str]:
    """Tasks with more than one merge: a task has at most one update."""
    tasks = [task for task, _ in merged(record)]
    return sorted({task for task in tasks if tasks.count(task) > 1}) if len(set(tasks)) < len(tasks) else []


def uplink_bytes(record: Record) -> int:
    """MQTT payload bytes of every update that arrived whole, in chunks or in its offer, as the coordinator counted
    them.
    """
    return sum(task.payload_bytes for task in record.received)


def uplink_bytes_by_agents(record: Record) -> int | None:
    """The same updates, as their senders counted them; None without any agent's history."""
    sent = [task.sent_payload_bytes for task in record.received if task.sent_payload_bytes]
    return sum(sent) if sent else None


def float32_bytes(record: Record, task: TaskRecord) -> int:
    """What the update would have been as float32: from its report, or else a value for every parameter."""
    return task.raw_bytes or record.parameters * 4


def uplink_bytes_float32(record: Record) -> int:
    return sum(float32_bytes(record, task) for task in record.received)


def uplink_ratio(record: Record) -> float | None:
    sent, raw = uplink_bytes(record), uplink_bytes_float32(record)
    return raw / sent if sent and raw else None


def wall_s(record: Record) -> float | None:
    """From `run_started` to `run_finished`; to the last event for a run that did not finish."""
    end = record.run_finished_at if record.run_finished_at is not None else record.ended_at
    if record.run_started_at is None or end is None:
        return None
    return max(0.0, end - record.run_started_at)


def staleness(record: Record) -> list[int]:
    """Of every merged update, in versions."""
    return [u.staleness for v in record.versions for u in v.updates if u.staleness is not None]
