"""What compression did on each device: bytes, the residual left by every task, what `auto` chose and why."""

from __future__ import annotations

from msgspec import Struct

from history.fields import count, number, text
from history.record import Record, TaskRecord

TASKS_MAX = 1_000  # of one device in the summary; `updates` and `events` in run.sqlite have every one


class TaskCompression(Struct, frozen=True, kw_only=True):
    """Of one update; what was chosen for it is only there with `compression: auto`."""

    task: str
    bytes: int
    residual_norm: float | None  # of what it left behind
    residual_share: float | None  # of the residual before, that came in
    share: float | None = None
    bits: int | None = None
    rate_bit_s: float | None = None
    reason: str = ""


class DeviceCompression(Struct, frozen=True, kw_only=True):
    name: str
    updates: int
    update_bytes: float | None  # mean
    ratio: float | None  # float32 bytes over bytes
    residual_norm: float | None  # the last
    residual_norm_max: float | None
    tasks: tuple[TaskCompression, ...]


def compressions(record: Record) -> list[DeviceCompression]:
    """Every device of the plan, its tasks in the order in which they were opened."""
    tasks: dict[str, list[TaskRecord]] = {name: [] for name in record.devices}
    for task in record.tasks.values():
        if task.agent in tasks and (task.encoded or task.report or task.compression):
            tasks[task.agent].append(task)
    return [_device(name, mine) for name, mine in tasks.items()]


def _device(name: str, tasks: list[TaskRecord]) -> DeviceCompression:
    tasks = sorted(tasks, key=lambda task: (task.opened_at or 0.0, task.id))
    sized = [task for task in tasks if _bytes(task)]
    sent, raw = sum(map(_bytes, sized)), sum(task.raw_bytes for task in sized)
    norms = [norm for task in tasks if (norm := _told(task, "residual_norm")) is not None]
    return DeviceCompression(
        name=name,
        updates=len(sized),
        update_bytes=round(sent / len(sized), 1) if sized else None,
        ratio=round(raw / sent, 2) if sent and raw else None,
        residual_norm=norms[-1] if norms else None,
        residual_norm_max=max(norms, default=None),
        tasks=tuple(_task(task) for task in tasks[-TASKS_MAX:]),
    )


def _bytes(task: TaskRecord) -> int:
    return task.bytes or count(task.encoded, "bytes")


def _told(task: TaskRecord, key: str) -> float | None:
    """By the device's own history, or else by the report that came with its offer."""
    own = number(task.encoded, key)
    return own if own is not None else number(task.report, key)


def _task(task: TaskRecord) -> TaskCompression:
    chosen = task.compression
    return TaskCompression(
        task=task.id,
        bytes=_bytes(task),
        residual_norm=_told(task, "residual_norm"),
        residual_share=_told(task, "residual_share"),
        share=number(chosen, "share"),
        bits=count(chosen, "bits") or None,
        rate_bit_s=number(chosen, "rate_bit_s"),
        reason=text(chosen, "reason"),
    )
