"""Rows in bulk, and updates that need not be read back."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.fresh import Fresh, FreshUpdates
from coordinator.rows import ROWS_MAX, insert


@pytest.mark.parametrize("count", [0, 1, ROWS_MAX, ROWS_MAX + 1, 3 * ROWS_MAX])
def test_every_row_is_there_in_its_order(count: int) -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute("CREATE TABLE t (a INTEGER, b BLOB, c TEXT)")
    made = [(i, bytes([i % 256]), f"{i}, ?") for i in range(count)]
    insert(db, "INSERT INTO t", made)
    assert db.execute("SELECT a, b, c FROM t ORDER BY rowid").fetchall() == made


def test_a_row_that_breaks_a_rule_stops_all_of_its_statement() -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)")
    with pytest.raises(sqlite3.IntegrityError):
        insert(db, "INSERT INTO t", [(1,), (2,), (1,)])
    assert db.execute("SELECT count(*) FROM t").fetchone() == (0,)


def fresh(size: int, sha256: str = "a") -> Fresh:
    return Fresh(sha256, memoryview(bytes(size)), "{}")


def test_it_is_taken_once_and_only_as_the_content_that_is_asked_for() -> None:
    updates = FreshUpdates()
    updates.put("t1", fresh(10))
    updates.put("t2", fresh(10))
    assert updates.take("t1", "a") == fresh(10)
    assert updates.take("t1", "a") is None
    assert updates.take("t2", "other") is None
    assert updates.take("t3", "a") is None


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 40)), max_size=60))
def test_the_newest_are_kept_and_never_more_than_the_limit(puts: list[tuple[str, int]]) -> None:
    updates = FreshUpdates(bytes_max=64)
    for task, size in puts:
        updates.put(task, fresh(size))
        held = list(updates._updates.values())
        assert sum(len(x.payload) for x in held) == updates._bytes <= 64
        assert updates._updates[task] == fresh(size), "one that fits is there, whatever came before"
