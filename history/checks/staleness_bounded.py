"""No update was merged that was older than the schedule allows, and what it weighs is what its age leaves of it."""

from __future__ import annotations

from history.checks.registry import Answer, check
from history.record import Record


def bound(record: Record) -> int | None:
    """Versions that an update may lie behind: 0 where a round waits for its own, None where no bound was asked."""
    policy = record.plan.policy
    if policy.max_staleness is not None:
        return policy.max_staleness
    waits = policy.kind == "synchronous" and not policy.carry_over
    return 0 if waits else None


def ages(record: Record) -> list[tuple[str, int]] | None:
    """(task, versions behind) of every merged update: version v is made of updates to v - 1. None: it is not told."""
    found = []
    for version in record.versions:
        for update in version.updates:
            task = record.tasks.get(update.task)
            if task is None or task.version is None:
                return None
            found.append((update.task, version.version - 1 - task.version))
    return found


@check("Was every merged update as fresh as the schedule wants?")
def staleness_bounded(record: Record) -> Answer:
    found, allowed = ages(record), bound(record)
    if found is None:
        return Answer("unknown", "the history does not tell on which version some updates were trained")
    if not found:
        return Answer("unknown", "no update was merged")
    problems = [f"{task} was trained on a version to come" for task, age in found if age < 0]
    if allowed is not None:
        problems += [
            f"{task} was {age} versions old, {allowed} allowed" for task, age in found if age > allowed
        ]
    if problems:
        return Answer("fail", problems[0], tuple(problems))
    oldest = max(age for _, age in found)
    limit = "no bound was asked for" if allowed is None else f"{allowed} allowed"
    return Answer("pass", f"{len(found)} updates, the oldest {oldest} versions behind; {limit}")
