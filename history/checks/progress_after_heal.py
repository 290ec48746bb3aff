"""After the last heal the run goes on: liveness, as far as a record can show it."""

from __future__ import annotations

from history.checks.registry import Answer, check
from history.record import Record


@check("Did the run make progress after the last heal?")
def progress_after_heal(record: Record) -> Answer:
    applied = [f for f in record.faults.values() if f.applied_at is not None]
    if not applied:
        return Answer("pass" if not record.faults else "unknown", "no fault was applied")
    # A kill that is not healed on purpose counts from where it struck.
    last = max(f.healed_at or f.applied_at or 0.0 for f in applied)
    wanting = [f.id for f in applied if f.heal_after_s is not None and f.healed_at is None]
    later = [v for v in record.versions if v.committed_at > last]
    if later:
        targets = {name for f in applied for name in f.targets}
        back = sum(update.agent in targets for version in later for update in version.updates)
        detail = f"{len(later)} versions afterwards, {back} updates of the devices that were hit"
        return Answer(
            "unknown" if wanting else "pass", detail, tuple(f"{name} was not healed" for name in wanting)
        )
    if record.finish_reason == "failed" or record.run_finished_at is None:
        return Answer(
            "fail", "no version was committed after the last heal, and the run did not reach its end"
        )
    return Answer("unknown", "the run ended before another version could follow the last heal")
