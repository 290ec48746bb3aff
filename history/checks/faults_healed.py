"""Everything that a fault changed was taken back, and was seen to be back."""

from __future__ import annotations

from history.checks.registry import Answer, check
from history.record import Record

HEALERS = frozenset({"hostd", "processes"})
SIGNS = frozenset({"heal_failed", "fault_tick_failed", "clear_failed"})


@check("Was every fault taken back?")
def faults_healed(record: Record) -> Answer:
    struck = [fault for fault in record.faults.values() if fault.applied_at is not None]
    if not record.event_count:
        return Answer("unknown", "there is no history")
    if not struck:
        return Answer("pass", "no fault was applied")
    problems = [
        f"{lapse.node}: {lapse.detail or lapse.what}"
        for lapse in record.lapses
        if lapse.what in SIGNS and lapse.source in HEALERS
    ]
    over = record.run_finished_at is not None
    problems += [
        f"{fault.id} was never healed"
        for fault in struck
        if over and fault.healed_at is None and not fault.left_stopped
    ]
    if problems:
        return Answer("fail", problems[0], tuple(problems))
    if not over:
        return Answer("unknown", "the run did not reach its end")
    return Answer("pass", f"{len(struck)} faults, all of them taken back")
