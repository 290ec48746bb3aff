"""What the journal lets go when it holds more update bytes than the topology allows (`merge.journal_bytes_max`).

Only bytes go, never rows: which update went into which version with which weight stays known. They go oldest first, of
updates that are settled, and only up to a version whose snapshot holds all that they did: recovery and audit begin
there. A snapshot is made whenever a quarter of the limit has come in since the last, in the version's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

KEPT = "SELECT coalesce(sum(bytes), 0) FROM updates WHERE payload IS NOT NULL"

# Often enough that letting the oldest go reaches into a quarter of what is kept at most: that much the audit loses.
SNAPSHOT_SHARE = 0.25

# Settled, with their bytes, oldest first; those that were discarded belong to no version and are in nobody's way.
CANDIDATES = """
SELECT u.task, u.bytes, coalesce(o.version, 0) FROM updates u JOIN outcomes o ON o.task = u.task
WHERE u.payload IS NOT NULL AND coalesce(o.version, 0) <= ? ORDER BY u.position
"""


def trim(db: sqlite3.Connection, version: int, bytes_max: int, snapshot: Callable[[], None] | None) -> int:
    """Bytes let go. `version` is the one just written, `snapshot` makes one of it, where that would do."""
    newest = db.execute("SELECT max(version) FROM snapshots").fetchone()[0]
    if snapshot is not None and newest < version and _since(db, newest) >= bytes_max * SNAPSHOT_SHARE:
        snapshot()
        newest = version
    excess = db.execute(KEPT).fetchone()[0] - bytes_max
    if excess <= 0:
        return 0
    gone, freed = [], 0
    for task, size, _ in db.execute(CANDIDATES, (newest,)):
        if freed >= excess:
            break
        gone.append((task,))
        freed += size
    db.executemany("UPDATE updates SET payload = NULL WHERE task = ?", gone)
    return freed


def _since(db: sqlite3.Connection, version: int) -> int:
    """Update bytes of the versions after `version`."""
    row = db.execute(
        "SELECT coalesce(sum(u.bytes), 0) FROM merges m JOIN updates u ON u.task = m.task WHERE m.version > ?",
        (version,),
    ).fetchone()
    return int(row[0])


def stretches(numbers: list[int]) -> tuple[tuple[int, int], ...]:
    """[1, 2, 3, 7] -> ((1, 3), (7, 7))"""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return tuple(found)
