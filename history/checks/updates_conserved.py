"""Every acked update was merged exactly once or discarded with a reason, and nothing was merged out of thin
air.
"""

from __future__ import annotations

from history import accounts
from history.checks.registry import Answer, check
from history.record import Record


@check("Was every acked update merged once or discarded with a reason?")
def updates_conserved(record: Record) -> Answer:
    problems = [f"{task} was merged more than once" for task in accounts.duplicated(record)]
    problems += _unkept(record)
    found = accounts.lost(record)
    waiting = [update for update in found or [] if _waits(record, update[0])]
    lost = None if found is None else [update for update in found if update not in waiting]
    problems += [
        f"{task} ({sha[:12]}) was acked, then neither merged nor discarded" for task, sha in lost or []
    ]
    if problems:
        return Answer("fail", problems[0], tuple(problems))
    if lost is None:
        missing = accounts.witnesses_missing(record)
        return Answer("unknown", f"no whole history of {', '.join(missing[:8])}", tuple(missing))
    acked, merged = len(accounts.acked(record)), len(accounts.merged(record))
    if not acked:
        return Answer("unknown", "no update was acked")
    kept = f", {len(waiting)} in the journal of a run that did not end" if waiting else ""
    settled = acked - merged - len(waiting)
    return Answer("pass", f"{acked} acked: {merged} merged, {settled} discarded with a reason{kept}")


def _waits(record: Record, name: str) -> bool:
    """An update of a round that was open when the run was interrupted: journalled, and neither lost nor settled yet."""
    task = record.tasks.get(name)
    if record.run_finished_at is not None or task is None:
        return False
    return task.journalled_at is not None and task.closed_at is None


def _unkept(record: Record) -> list[str]:
    """Acked or merged without having been journalled before: rule 3, acked means kept."""
    if "coordinator" in {defect.node for defect in record.defects if defect.kind != "cut"}:
        return []  # the line that says so may be among the lost ones
    found = []
    for task in record.tasks.values():
        kept = task.journalled_at
        if (task.merged_in or task.acked_at is not None) and kept is None:
            found.append(f"{task.id} was {'merged' if task.merged_in else 'acked'} but never journalled")
        elif task.acked_at is not None and kept is not None and task.acked_at < kept:
            found.append(f"{task.id} was acked before it was journalled")
    return found
