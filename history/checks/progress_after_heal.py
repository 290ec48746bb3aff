"""Liveness: after every heal the run goes on, within a bounded time, as far as a record can show it."""

from __future__ import annotations

from history.checks.registry import Answer, check
from history.record import FaultRecord, Record

# Beside a round's own deadline: a container that starts again is shaped and measured before it may connect, and an
# agent that was cut off tries again within a quarter of a minute.
RECOVERY_SLACK_S = 45.0


def bound_s(record: Record) -> float:
    return record.plan.policy.deadline_s + RECOVERY_SLACK_S


def struck(record: Record) -> list[FaultRecord]:
    return [fault for fault in record.faults.values() if fault.applied_at is not None]


def ended_at(fault: FaultRecord) -> float:
    """A kill that is not healed on purpose counts from where it struck."""
    return max(fault.healed_at or 0.0, fault.applied_at or 0.0)


def recoveries(record: Record) -> dict[str, float | None]:
    """Per fault: seconds from its end to the next version; None when none followed."""
    found: dict[str, float | None] = {}
    for fault in struck(record):
        later = [v.committed_at for v in record.versions if v.committed_at > ended_at(fault)]
        found[fault.id] = min(later) - ended_at(fault) if later else None
    return found


@check("Did the run make progress after every heal?")
def progress_after_heal(record: Record) -> Answer:
    faults = struck(record)
    if not faults:
        return Answer("pass" if not record.faults else "unknown", "no fault was applied")
    waits, limit = recoveries(record), bound_s(record)
    slow = [
        f"{name}: {wait:.0f} s until the next version, {limit:.0f} allowed"
        for name, wait in waits.items()
        if wait is not None and wait > limit
    ]
    over = record.run_finished_at if record.run_finished_at is not None else record.ended_at
    slow += [
        f"{fault.id}: no version in {over - ended_at(fault):.0f} s, {limit:.0f} allowed"
        for fault in faults
        if waits[fault.id] is None and over is not None and over - ended_at(fault) > limit
    ]
    last = max(ended_at(fault) for fault in faults)
    later = [version for version in record.versions if version.committed_at > last]
    if slow:
        return Answer("fail", slow[0], tuple(slow))
    if not later and (record.finish_reason == "failed" or record.run_finished_at is None):
        return Answer(
            "fail", "no version was committed after the last heal, and the run did not reach its end"
        )
    wanting = [f.id for f in faults if f.heal_after_s is not None and f.healed_at is None]
    whole = [r for r in record.closed_rounds if r.opened_at is not None and r.opened_at > last]
    if wanting or not whole:
        doubts = tuple(f"{name} was not healed" for name in wanting)
        return Answer("unknown", doubts[0] if doubts else "no whole round followed the last heal", doubts)
    targets = {name for fault in faults for name in fault.targets}
    back = sum(update.agent in targets for version in later for update in version.updates)
    longest = max((wait for wait in waits.values() if wait is not None), default=0.0)
    detail = f"{len(later)} versions afterwards, {back} updates of the devices that were hit; "
    return Answer("pass", detail + f"at most {longest:.1f} s from a heal to the next version")
