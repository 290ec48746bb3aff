"""The journal on a real file: what a returned commit is worth, and what the file refuses."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from coordinator_world import PARAMETERS, PAYLOADS, REPORT, Habits, World, content_of, make_config

from coordinator import actions as a
from coordinator.journal import Journal, JournalError, JournalFull
from coordinator.recovery import restore_model, restore_state
from coordinator.state import TaskState
from wire.codecs import model as versions

PLAN = "1" * 64
TASK = a.JournalTask(task="r1-t1", agent="d-0", round=1, version=0, seed=5, deadline_s=30.0)
ROUND = a.JournalRound(
    round=1, version=0, cohort=("d-0", "d-1"), target=2, quorum=1, deadline_s=30.0, extensions=1
)


def opened(path: Path, run: str = "r") -> Journal:
    return Journal.open(path / "journal.sqlite", run=run, plan_sha256=PLAN)


def begun(path: Path) -> Journal:
    journal = opened(path)
    master = np.zeros(PARAMETERS, np.float32)
    with journal.transaction():
        journal.begin_model(master, versions.to_patterns(master))
    return journal


def update_of(task: str, position: int = 0, samples: int = 100) -> a.JournalUpdate:
    return a.JournalUpdate(
        task=task, agent="d-0", sha256=content_of(task), bytes=500, samples=samples, position=position,
        report=REPORT, defect="",
    )  # fmt: skip


def test_the_file_is_synchronous_and_has_a_write_ahead_log(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    assert journal.db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert journal.db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_what_was_committed_comes_back_as_state(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    update = update_of("r1-t1", samples=77)
    with journal.transaction():
        journal.apply(ROUND)
        journal.apply(TASK)
        journal.apply(a.JournalTask(task="r1-t2", agent="d-1", round=1, version=0, seed=6, deadline_s=30.0))
        journal.apply(update, PAYLOADS[update.sha256])
    journal.close()
    again = opened(tmp_path)
    assert again.next_epoch() == 1
    state = restore_state(again, make_config(2))
    assert state.round is not None
    assert (state.round.number, state.round.quorum, state.round.extensions) == (1, 1, 1)
    assert state.tasks["r1-t1"].state is TaskState.ACKED
    assert (state.tasks["r1-t1"].samples, state.tasks["r1-t1"].report) == (77, REPORT)
    assert state.tasks["r1-t2"].state is TaskState.OPEN
    assert state.agents["d-1"].task == "r1-t2"
    assert (state.tasks_made, state.positions_made) == (2, 1)


def test_what_was_not_committed_never_happened(tmp_path: Path) -> None:
    journal = begun(tmp_path)

    def broken_turn() -> None:
        with journal.transaction():
            journal.apply(TASK)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_turn()
    assert journal.db.execute("SELECT count(*) FROM tasks").fetchone() == (0,)


def test_a_second_update_of_a_task_cannot_be_written(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    with journal.transaction():
        journal.apply(TASK)
        journal.apply(update_of("r1-t1"), b"first")
    with pytest.raises(sqlite3.IntegrityError), journal.transaction():
        journal.apply(update_of("r1-t1", position=1), b"second")


def test_a_second_merge_of_an_update_cannot_be_written(tmp_path: Path) -> None:
    journal, master = begun(tmp_path), np.zeros(PARAMETERS, np.float32)
    update = update_of("r1-t1")
    item = a.MergeItem("r1-t1", "d-0", update.sha256, 100)
    with journal.transaction():
        journal.apply(TASK)
        journal.apply(update, PAYLOADS[update.sha256])
        journal.commit_version(
            a.CommitVersion(version=1, round=1, server_lr=1.0, updates=(item,)), master, "fp16"
        )
    twice = a.CommitVersion(version=2, round=2, server_lr=1.0, updates=(item,))
    with pytest.raises(sqlite3.IntegrityError), journal.transaction():
        journal.commit_version(twice, master, "fp16")
    assert journal.db.execute("SELECT max(version) FROM versions").fetchone() == (1,)


def test_another_runs_journal_and_another_schema_are_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with pytest.raises(JournalError, match="another run's journal"):
        opened(tmp_path, run="other")
    journal = opened(tmp_path)
    journal.db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    journal.close()
    with pytest.raises(JournalError, match="schema '99'"):
        opened(tmp_path)


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"not a database, whatever its name says" * 100)
    with pytest.raises(JournalError, match="damaged"):
        opened(tmp_path)


def test_a_full_disk_raises_and_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    pages = journal.db.execute("PRAGMA page_count").fetchone()[0]
    journal.db.execute(f"PRAGMA max_page_count = {pages}")

    def write() -> None:
        with journal.transaction():
            journal.apply(TASK)
            journal.apply(update_of("r1-t1"), bytes(1 << 20))

    with pytest.raises(JournalFull, match="full"):
        write()
    assert journal.db.execute("SELECT count(*) FROM tasks").fetchone() == (0,)
    journal.db.execute("PRAGMA max_page_count = 100000")
    write()
    assert journal.db.execute("SELECT count(*) FROM updates").fetchone() == (1,)


def test_recovery_repeats_merges_from_the_snapshot_and_refuses_a_changed_update() -> None:
    world = World(make_config(3, rounds=12), 1, Habits())
    world.run()
    db = world.journal.db
    assert [v for (v,) in db.execute("SELECT version FROM snapshots ORDER BY version")] == [0, 10]
    model = restore_model(world.journal, "fp16", keep=3)
    assert model is not None
    assert [version for version, _ in model.recent] == [10, 11, 12]
    assert model.master.tobytes() == world.master.tobytes()
    db.execute("UPDATE merges SET samples = 7 WHERE version = 12 AND position = 0")
    with pytest.raises(JournalError, match="version 12"):
        restore_model(world.journal, "fp16", keep=3)


WRITER = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_coordinator_journal import *
journal = begun(Path(sys.argv[1]))
for number in range(1, 100_000):
    task = f"r1-t{number}"
    update = update_of(task, position=number)
    with journal.transaction():
        journal.apply(a.JournalTask(task=task, agent="d-0", round=1, version=0, seed=1, deadline_s=1.0))
        journal.apply(update, PAYLOADS[update.sha256])
    print(task, update.sha256, flush=True)
"""


def test_whatever_was_said_to_be_committed_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    """A writer is killed three times in the middle of its work; a line on its output is what an ack would be."""
    for attempt, lines in enumerate((3, 20, 57)):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
        command = [sys.executable, "-c", WRITER, str(folder), *paths]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = [process.stdout.readline().split() for _ in range(lines)]
            os.kill(process.pid, signal.SIGKILL)
            said += [line.split() for line in process.stdout if line.endswith("\n")]
        journal = opened(folder)
        kept = dict(journal.db.execute("SELECT task, sha256 FROM updates").fetchall())
        assert all(kept.get(task) == sha256 for task, sha256 in said)
        assert len(kept) - len(said) in (0, 1), "at most the one whose ack was not said yet"
        assert all(journal.payload(task) for task in kept), "bytes and sha256 agree"
