"""What each device did when: one lane per device, one segment per phase of a task."""

from __future__ import annotations

from dataclasses import dataclass

from history.record import DeviceRecord, Record, Span, TaskRecord

# In the order of a task's life; `sent` is a task on its way, `settling` an update that waits for its round to
# close.
PHASES = {
    "sent": "task on its way",
    "fetching": "fetching the model",
    "training": "training",
    "encoding": "encoding",
    "waiting": "waiting for a grant",
    "uploading": "uploading",
    "settling": "waiting for the round",
}
_RANKS = {phase: rank for rank, phase in enumerate(PHASES)}
_COORDINATOR_ONLY = {"sent", "uploading", "settling", "closed"}
_ENDS = {"closed", "down"}


@dataclass(frozen=True, slots=True)
class Segment:
    """Seconds since the run began."""

    begin_s: float
    end_s: float
    phase: str
    task: str
    round: int | None
    state: str


@dataclass(frozen=True, slots=True)
class Lane:
    device: str
    group: str
    segments: list[Segment]
    dead: list[tuple[float, float]]
    offline: list[tuple[float, float]]


def lanes(record: Record, limit: int) -> list[Lane]:
    """The first `limit` devices; those that a fault or a discard made interesting go before the others."""
    tasks: dict[str, list[TaskRecord]] = {name: [] for name in record.devices}
    for task in record.tasks.values():
        if task.agent in tasks and task.opened_at is not None:
            tasks[task.agent].append(task)
    hit = {name for fault in record.faults.values() for name in fault.targets}
    chosen = list(record.devices.values())
    if len(chosen) > limit:
        chosen.sort(key=lambda device: (device.name not in hit, not device.offline, device.plan.index))
        chosen = sorted(chosen[:limit], key=lambda device: device.plan.index)
    return [_lane(record, device, tasks[device.name]) for device in chosen]


def _lane(record: Record, device: DeviceRecord, tasks: list[TaskRecord]) -> Lane:
    segments = [segment for task in tasks for segment in task_segments(record, device, task)]
    return Lane(
        device=device.name,
        group=device.plan.group,
        segments=segments,
        dead=[_seconds(record, span) for span in device.dead],
        offline=[_seconds(record, span) for span in device.offline],
    )


def _seconds(record: Record, span: Span) -> tuple[float, float]:
    end = span[1] if span[1] is not None else record.run_finished_at or record.ended_at or span[0]
    return record.since(span[0]), record.since(max(span[0], end))


def marks(device: DeviceRecord, task: TaskRecord) -> list[tuple[float, str]]:
    """When the task entered which phase. The device knows its own phases best; of what it told the coordinator
    only that counts which is ahead of its own history (a device that has the model already fetches nothing).
    """
    begin = task.opened_at if task.opened_at is not None else 0.0
    end = task.closed_at if task.closed_at is not None else float("inf")
    deaths = [mark for a, b in device.dead for mark in ((a, "down"), (b if b is not None else end, "sent"))]
    own = [(at, phase, True) for at, phase in [*task.agent_marks, *deaths]]
    told = [(at, phase, phase in _COORDINATOR_ONLY) for at, phase in task.coordinator_marks]
    found: list[tuple[float, str]] = []
    rank = 0
    for at, phase, certain in sorted(mark for mark in [*own, *told] if begin <= mark[0] <= end):
        if certain or _RANKS.get(phase, 0) > rank:
            found.append((at, phase))
            rank = _RANKS.get(phase, 0)
    return found


def task_segments(record: Record, device: DeviceRecord, task: TaskRecord) -> list[Segment]:
    found = marks(device, task)
    last = task.closed_at if task.closed_at is not None else record.run_finished_at or record.ended_at or 0.0
    segments: list[Segment] = []
    for (begin, phase), (end, _) in zip(found, [*found[1:], (last, "")], strict=True):
        begin_s, end_s = record.since(begin), record.since(end)
        if phase in _ENDS or phase not in PHASES or end_s <= begin_s:
            continue
        before = segments[-1] if segments else None
        if before is not None and before.phase == phase and abs(before.end_s - begin_s) < 1e-9:
            segments.pop()
            begin_s = before.begin_s
        segments.append(Segment(begin_s, end_s, phase, task.id, task.round, task.state))
    return segments
