"""Many rows in few statements.

The sqlite3 module gives up the interpreter's lock for every statement, and for every row of `executemany`; with the
MQTT client's thread at work each time is a wait to get it back. A busy turn journals some hundred rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain

ROWS_MAX = 100  # of one statement: 900 values, below the 999 that every SQLite takes


def insert(db: sqlite3.Connection, into: str, rows: Sequence[tuple[object, ...]]) -> None:
    """`into`: `INSERT INTO tasks (task, agent)`; all rows are as long as the first. In their order."""
    for start in range(0, len(rows), ROWS_MAX):
        part = rows[start : start + ROWS_MAX]
        row = f"({', '.join('?' * len(part[0]))})"
        db.execute(f"{into} VALUES {', '.join([row] * len(part))}", tuple(chain.from_iterable(part)))
