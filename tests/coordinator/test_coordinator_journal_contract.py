"""What every journal owes its service, held against both kinds: the file, and the one in memory of the simulation."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coordinator_world import PARAMETERS, PAYLOADS, REPORT, content_of, make_config, memory_journal
from msgspec import structs

from coordinator import actions as a
from coordinator.journal import Journal, JournalError, JournalFull
from coordinator.merges import EMPTY, FEDAVG, MergeSpec, State, state_sha256
from coordinator.recovery import restore_model, restore_state
from coordinator.state import TaskState
from topology.plan import MergePlan
from wire.codecs import model as versions
from wire.codecs.arrays import Float32


@pytest.fixture(params=["file", "memory"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    if request.param == "memory":
        return memory_journal("r")
    return Journal.open(tmp_path / "journal.sqlite", run="r", plan_sha256="0" * 64)


WHOLE = versions.Rounding()


class Run:
    """Writes rounds of two updates each, as a service would."""

    def __init__(
        self, journal: Journal, spec: MergeSpec = FEDAVG, rounding: versions.Rounding = WHOLE
    ) -> None:
        self.journal, self.spec, self.rounding = journal, spec, rounding
        self.patterns: versions.Patterns | None = None
        self.master: Float32 = np.zeros(PARAMETERS, np.float32)
        self.state: State = EMPTY
        self.number = 0
        with journal.transaction():
            journal.begin_model(self.master, versions.to_patterns(self.master))

    def update(self, round_: int) -> a.MergeItem:
        self.number += 1
        task, agent = f"r{round_}-t{self.number}", f"d-{self.number % 4}"
        sha256 = content_of(task)
        self.journal.apply(
            a.JournalTask(task=task, agent=agent, round=round_, version=round_ - 1, seed=1, deadline_s=9.0)
        )
        update = a.JournalUpdate(
            task=task, agent=agent, sha256=sha256, bytes=len(PAYLOADS[sha256]), samples=50,
            position=self.number, report=REPORT, defect="",
        )  # fmt: skip
        self.journal.apply(update, PAYLOADS[sha256])
        return a.MergeItem(task, agent, sha256, 50, 0.5 if self.number % 3 else 1.0)

    def version(self, number: int) -> None:
        journal = self.journal
        with journal.transaction():
            row: dict[str, Any] = {
                "cohort": ("d-0",),
                "target": 2,
                "quorum": 1,
                "deadline_s": 9.0,
                "extensions": 0,
            }
            journal.apply(a.JournalRound(round=number, version=number - 1, **row))
            items = (self.update(number), self.update(number))
            action = a.CommitVersion(version=number, round=number, server_lr=0.7, updates=items)
            made = journal.commit_version(
                action, self.master, self.rounding, self.spec, self.state, self.patterns
            )
        self.master, self.state, self.patterns = made.master, made.state, made.patterns

    def through(self, last: int) -> Run:
        for number in range(1, last + 1):
            self.version(number)
        return self


KINDS = [MergePlan(), MergePlan(kind="fedyogi"), MergePlan(kind="fedavgm"), MergePlan(kind="fednova")]


@pytest.mark.parametrize("rule", KINDS, ids=lambda rule: rule.kind)
def test_model_and_server_state_come_back_bit_for_bit(journal: Journal, rule: MergePlan) -> None:
    run = Run(journal, structs.replace(FEDAVG, rule=rule, local_steps=9)).through(13)
    model = restore_model(journal, "fp16", 3, run.spec)
    assert model is not None
    assert model.master.tobytes() == run.master.tobytes()
    assert state_sha256(model.state) == state_sha256(run.state)
    assert [version for version, _ in model.recent] == [11, 12, 13]


def test_recovery_by_another_rule_than_the_recorded_one_is_refused(journal: Journal) -> None:
    Run(journal, structs.replace(FEDAVG, rule=MergePlan(kind="fedavgm"))).through(3)
    with pytest.raises(JournalError, match="version 1 comes out as"):
        restore_model(journal, "fp16", 3, structs.replace(FEDAVG, rule=MergePlan(kind="median")))


def test_a_transaction_is_all_or_nothing(journal: Journal) -> None:
    run = Run(journal).through(1)

    def broken() -> None:
        with journal.transaction():
            run.update(2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert journal.db.execute("SELECT count(*) FROM updates").fetchone() == (2,)
    run.version(2)
    assert restore_state(journal, make_config(4)).version == 2


def test_bytes_come_back_as_they_were_and_aligned(journal: Journal) -> None:
    Run(journal).through(1)
    for task, sha256 in journal.db.execute("SELECT task, sha256 FROM updates").fetchall():
        payload = journal.payload(task)
        assert hashlib.sha256(payload).hexdigest() == sha256
        assert payload.readonly
        assert (np.frombuffer(payload, np.uint8).ctypes.data + 21) % 64 == 0


def test_damaged_bytes_are_never_merged(journal: Journal) -> None:
    run = Run(journal)
    with journal.transaction():
        item = run.update(1)
        journal.db.execute("UPDATE updates SET payload = ? WHERE task = ?", (b"other", item.task))
    action = a.CommitVersion(version=1, round=1, server_lr=1.0, updates=(item,))
    restarted = Journal(journal.path, journal.db, time.time)  # it has nothing but what the file has
    with pytest.raises(JournalError, match="not what its sha256 says"), restarted.transaction():
        restarted.commit_version(action, run.master, "fp16")
    assert journal.db.execute("SELECT max(version) FROM versions").fetchone() == (0,)


def test_beyond_its_limit_the_oldest_merged_bytes_go_and_recovery_still_works(journal: Journal) -> None:
    rule = MergePlan(kind="fedadam", journal_bytes_max=1_000)
    run = Run(journal, structs.replace(FEDAVG, rule=rule)).through(25)
    held, gone = journal.db.execute(
        "SELECT sum(payload IS NOT NULL), sum(payload IS NULL) FROM updates"
    ).fetchone()
    assert (
        journal.db.execute("SELECT sum(bytes) FROM updates WHERE payload IS NOT NULL").fetchone()[0] <= 1_000
    )
    assert held > 0
    assert gone > 30
    oldest = journal.db.execute("SELECT min(position) FROM updates WHERE payload IS NOT NULL").fetchone()[0]
    newest_gone = journal.db.execute("SELECT max(position) FROM updates WHERE payload IS NULL").fetchone()[0]
    assert newest_gone < oldest
    model = restore_model(journal, "fp16", 8, run.spec)
    assert model is not None
    assert model.master.tobytes() == run.master.tobytes()
    assert state_sha256(model.state) == state_sha256(run.state)
    with pytest.raises(JournalError, match="were let go"):
        journal.payload("r1-t1")


def test_bytes_that_a_partial_downlink_needs_are_kept(journal: Journal) -> None:
    """A version that renews half of its parameters follows from the one before, not from a snapshot of the model."""
    rounding, rule = versions.Rounding("fp16", 0.5), MergePlan(journal_bytes_max=1)
    run = Run(journal, structs.replace(FEDAVG, rule=rule), rounding).through(25)
    assert [v for (v,) in journal.db.execute("SELECT version FROM snapshots")] == [0, 10, 20]
    model = restore_model(journal, rounding, 3, run.spec)
    assert model is not None
    assert run.patterns is not None
    assert model.recent[-1][1].tobytes() == run.patterns.tobytes()


def test_what_is_not_settled_is_never_let_go(journal: Journal) -> None:
    run = Run(journal, structs.replace(FEDAVG, rule=MergePlan(journal_bytes_max=1)))
    with journal.transaction():
        waiting = run.update(99)
    run.version(1)
    assert hashlib.sha256(journal.payload(waiting.task)).hexdigest() == waiting.sha256
    assert restore_state(journal, make_config(4)).tasks[waiting.task].state is TaskState.ACKED


def test_a_full_disk_leaves_everything_as_it_was_and_then_goes_on(journal: Journal) -> None:
    run = Run(journal).through(2)
    before = journal.db.execute(
        "SELECT max(version), (SELECT count(*) FROM updates) FROM versions"
    ).fetchone()
    pages = journal.db.execute("PRAGMA page_count").fetchone()[0]
    journal.db.execute(f"PRAGMA max_page_count = {pages}")

    def write() -> None:
        with journal.transaction():
            run.update(3)
            journal.db.execute(
                "UPDATE updates SET payload = zeroblob(1000000) WHERE position = ?", (run.number,)
            )

    with pytest.raises(JournalFull):
        write()
    found = journal.db.execute("SELECT max(version), (SELECT count(*) FROM updates) FROM versions").fetchone()
    assert found == before
    journal.db.execute("PRAGMA max_page_count = 1000000")
    write()
    assert journal.db.execute("SELECT count(*) FROM updates").fetchone()[0] == before[1] + 1


def test_every_boot_counts_once(journal: Journal) -> None:
    assert [journal.next_epoch() for _ in range(3)] == [1, 2, 3]


def test_the_noise_of_a_run_is_its_own_secret(journal: Journal, tmp_path: Path) -> None:
    other = Journal.open(tmp_path / "other.sqlite", run="r", plan_sha256="0" * 64)
    seeds = {int(x.meta("noise_seed") or 0) for x in (journal, other)}
    assert len(seeds) == 2
    assert min(seeds) > 1 << 64
    assert journal.spec_of(FEDAVG, 3, 0.5).noise_seed in seeds
