"""What the journal knows and the history does not: a coordinator killed between a commit and its history's fsync.

The journal is the truth, and nothing was lost; but whoever reads the history alone would see updates merged that were
never journalled, and versions missing. So a coordinator that starts again says once more what its file lacks, with
`restored: true`, stamped with the time at which it is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from coordinator.journal import Journal
from history.writer import EVENT_BYTES_MAX

Missed = tuple[str, dict[str, Any]]  # event, fields

# What is said again, and the field that names it.
NAMED_BY = {
    "update_journalled": "task",
    "version_committed": "version",
    "update_discarded": "task",
    "task_closed": "task",
}


class _Line(msgspec.Struct):
    event: str
    fields: dict[str, Any] = {}


def told(history: Path) -> set[tuple[str, object]]:
    """(event, task or version) of every line of the file; what cannot be read was not told."""
    found: set[tuple[str, object]] = set()
    if not history.is_file():
        return found
    with open(history, "rb") as file:
        while line := file.readline(EVENT_BYTES_MAX + 1):
            if not any(name.encode() in line for name in NAMED_BY):
                continue
            try:
                said = msgspec.json.decode(line, type=_Line)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            if said.event in NAMED_BY:
                found.add((said.event, said.fields.get(NAMED_BY[said.event])))
    return found


def missed(journal: Journal, history: Path) -> Iterator[Missed]:
    """Events to append, in the order in which they happened."""
    known = told(history)
    for event, fields in _happened(journal):
        if (event, fields[NAMED_BY[event]]) in known:
            continue
        if event == "version_committed":
            fields["updates"] = list(_merged(journal, fields["version"]))
        yield event, {**fields, "restored": True}


def _happened(journal: Journal) -> Iterator[Missed]:
    """All of it, but for the updates of a version: most versions were told, and need not be looked up."""
    for task, agent, sha256 in journal.db.execute(
        "SELECT task, agent, sha256 FROM updates ORDER BY position"
    ).fetchall():
        yield "update_journalled", {"task": task, "agent": agent, "sha256": sha256}
    for version, sha256, round_ in journal.db.execute(
        "SELECT version, sha256, round FROM versions WHERE version > 0 ORDER BY version"
    ).fetchall():
        yield "version_committed", {"version": version, "sha256": sha256, "round": round_}
    for task, agent, sha256, outcome, reason in journal.db.execute(
        "SELECT o.task, u.agent, u.sha256, o.outcome, o.reason FROM outcomes o JOIN updates u ON u.task = o.task"
        " WHERE o.outcome != 'merged' ORDER BY u.position"
    ).fetchall():
        fields = {"task": task, "agent": agent, "sha256": sha256}
        yield "update_discarded", {**fields, "outcome": outcome, "reason": reason}
    for task, agent, round_, state, reason in journal.db.execute(
        "SELECT t.task, t.agent, t.round, t.state, coalesce('version ' || m.version, t.reason) FROM tasks t"
        " LEFT JOIN merges m ON m.task = t.task WHERE t.state != 'open' ORDER BY t.number"
    ).fetchall():
        yield "task_closed", {"task": task, "agent": agent, "round": round_, "state": state, "reason": reason}


def _merged(journal: Journal, version: int) -> Iterator[dict[str, Any]]:
    """The rows of a version as `version_committed` has them (`coordinator.versions.describe_merged`)."""
    for task, agent, sha256, base, samples, factor in journal.db.execute(
        "SELECT m.task, u.agent, u.sha256, t.version, m.samples, m.factor FROM merges m"
        " JOIN updates u ON u.task = m.task JOIN tasks t ON t.task = m.task WHERE m.version = ? ORDER BY m.position",
        (version,),
    ).fetchall():
        yield {
            "task": task,
            "agent": agent,
            "sha256": sha256,
            "weight": samples * factor,
            "samples": samples,
            "factor": factor,
            "version": base,
            "staleness": version - 1 - base,
        }
