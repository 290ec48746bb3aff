"""Versions follow each other one by one, in time as in number, each committed once.

A coordinator that starts again may tell of a version that a life before it committed; one life commits each once, and
publishing a version again is no commit.
"""

from __future__ import annotations

from history.checks.registry import Answer, check
from history.record import Record


@check("Do the model's versions follow each other without a gap?")
def versions_gapless(record: Record) -> Answer:
    if not record.versions:
        return Answer("unknown", "no version was committed")
    shas: dict[int, str] = {}
    told: set[tuple[int, str]] = set()  # version, boot
    problems: list[str] = []
    missing: list[int] = []
    last = 0
    for committed in record.versions:
        number = committed.version
        if shas.setdefault(number, committed.sha256) != committed.sha256:
            problems.append(f"version {number} was committed twice with different content")
        elif (number, committed.boot) in told:
            problems.append(f"version {number} was committed twice by one coordinator")
        elif number < last:
            problems.append(f"version {number} was committed after version {last}")
        told.add((number, committed.boot))
        missing += range(last + 1, number)
        last = max(last, number)
    if problems:
        return Answer("fail", problems[0], tuple(problems))
    if missing:
        detail = f"missing: {', '.join(map(str, missing[:8]))}"
        # A coordinator that dies between a commit and its history line leaves this; only its journal can
        # tell.
        holes = any(defect.node == "coordinator" and defect.kind != "cut" for defect in record.defects)
        return Answer("unknown" if record.epochs > 1 or holes else "fail", detail)
    return Answer("pass", f"versions 1 to {last}")
