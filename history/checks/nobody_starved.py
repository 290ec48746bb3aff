"""Fairness: every device that was there and was given work had its part in the model."""

from __future__ import annotations

from history.accounts import merged
from history.checks.registry import Answer, check
from history.record import DeviceRecord, Record

CHANCES_MIN = 3  # tasks; a device that was given fewer may have been unlucky
PRESENT_MIN = 0.5  # of the run: who was away for longer was not starved


def shares(record: Record) -> dict[str, int]:
    """Merged updates of every device of the plan."""
    found = dict.fromkeys(record.devices, 0)
    for task, _ in merged(record):
        known = record.tasks.get(task)
        if known is not None and known.agent in found:
            found[known.agent] += 1
    return found


def jain(counts: list[int]) -> float | None:
    """Jain's fairness index: 1 when all have the same, 1/n when one has everything (R. Jain et al., 1984, eq. 1)."""
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else None


def present_share(record: Record, device: DeviceRecord) -> float:
    """Of the time from the first round to the end, as the coordinator saw it."""
    opened = [r.opened_at for r in record.rounds.values() if r.opened_at is not None]
    begin, end = min(opened, default=None), record.run_finished_at or record.ended_at
    if begin is None or end is None or end <= begin:
        return 0.0
    spans = [*device.offline, *device.dead]
    away = sum(max(0.0, min(to if to is not None else end, end) - max(since, begin)) for since, to in spans)
    return max(0.0, 1.0 - away / (end - begin))


@check("Did every device that was there have its part?")
def nobody_starved(record: Record) -> Answer:
    if not record.versions:
        return Answer("unknown", "no version was committed")
    counts = shares(record)
    tasks = dict.fromkeys(record.devices, 0)
    for task in record.tasks.values():
        if task.agent in tasks and task.opened_at is not None:
            tasks[task.agent] += 1
    idle = [name for name, count in counts.items() if not count]
    starved = [
        f"{name} was given {tasks[name]} tasks and none of its updates was merged"
        for name in idle
        if tasks[name] >= CHANCES_MIN and present_share(record, record.devices[name]) >= PRESENT_MIN
    ]
    if starved:
        return Answer("fail", starved[0], tuple(starved))
    index = jain(list(counts.values()))
    detail = f"{min(counts.values())} to {max(counts.values())} updates each, Jain's index {index or 0:.2f}"
    if idle:
        few = tuple(f"{name} had too few chances to tell" for name in idle)
        return Answer("unknown", f"{few[0]}; {detail}", few)
    return Answer("pass", detail)
