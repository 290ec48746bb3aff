"""No update was merged that was older than the schedule allows, and what it weighs is what its age leaves of it."""

from __future__ import annotations

import math

from history.checks.registry import Answer, check
from history.record import Record
from topology.plan import StalenessPlan


def bound(record: Record) -> int | None:
    """Versions that an update may lie behind: 0 where a round waits for its own, None where no bound was asked."""
    policy = record.plan.policy
    if policy.max_staleness is not None:
        return policy.max_staleness
    waits = policy.kind in ("synchronous", "tiered") and not policy.carry_over
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


def left_of(plan: StalenessPlan, age: int) -> float:
    """s(τ) once more, apart from the coordinator's: who judges it with its own formula sees no mistake in it."""
    if plan.kind == "polynomial":
        return float((1 + age) ** -plan.exponent)
    return 1 / (plan.a * (age - plan.b) + 1) if plan.kind == "hinge" and age > plan.b else 1.0


def misweighed(record: Record) -> list[str]:
    """Updates whose recorded factor is not s(τ); under fedat it is that or less, by the share of a tier."""
    policy, found = record.plan.policy, []
    for version in record.versions:
        for update in version.updates:
            task = record.tasks.get(update.task)
            if update.factor is None or task is None or task.version is None:
                continue
            age = version.version - 1 - task.version
            wanted = left_of(policy.staleness, max(age, 0))
            less = policy.kind == "fedat" and 0 < update.factor < wanted
            if not less and not math.isclose(update.factor, wanted, rel_tol=1e-6):
                found.append(f"{update.task}, {age} versions old, counts {update.factor:g}, not {wanted:g}")
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
    problems += misweighed(record)
    if problems:
        return Answer("fail", problems[0], tuple(problems))
    oldest = max(age for _, age in found)
    limit = "no bound was asked for" if allowed is None else f"{allowed} allowed"
    return Answer("pass", f"{len(found)} updates, the oldest {oldest} versions behind; {limit}")
