"""Every planned fault was applied, took effect, and met work: a fault that hits an idle device has tested
nothing.
"""

from __future__ import annotations

from history.checks.registry import Answer, check
from history.record import Record


@check("Did every fault take effect while its target had work?")
def faults_met_tasks(record: Record) -> Answer:
    if not record.event_count:
        return Answer("unknown", "there is no history")
    faults = list(record.faults.values())
    if not faults:
        return Answer("pass", "no fault was planned")
    problems = [f"{f.id} was never applied" for f in faults if f.applied_at is None]
    problems += [
        f"{f.id} did not take: {f.detail or 'no detail'}"
        for f in faults
        if f.applied_at is not None and f.verified is False
    ]
    if problems:
        return Answer("fail", problems[0], tuple(problems))
    doubts = [f"{f.id} was not verified" for f in faults if f.verified is None]
    doubts += [f"{f.id} met no open task" for f in faults if not f.overlapped]
    if doubts:
        return Answer("unknown", doubts[0], tuple(doubts))
    met = sum(len(f.overlapped) for f in faults)
    return Answer("pass", f"{len(faults)} of {len(faults)} applied and verified, {met} open tasks met")
