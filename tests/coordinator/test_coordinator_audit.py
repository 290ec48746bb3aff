"""An honest run passes; every single forgery is found, and named."""

from __future__ import annotations

import hashlib
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coordinator_world import PARAMETERS, Habits, World, make_config
from support.rig_root import make_plan

from coordinator.audit import audit, main
from coordinator.journal import JOURNAL_SCHEMA
from coordinator.merging import merge_spec
from history import reader
from history.writer import HistoryWriter
from topology.plan import MergePlan, dump_plan
from wire import pair
from wire.codecs import decode
from wire.codecs.model import to_patterns, version_sha256

ZEROS = np.zeros(PARAMETERS, np.float32)
MERGES = {
    "fedavg": MergePlan(),
    "fedadam": MergePlan(kind="fedadam"),
    "fednova": MergePlan(kind="fednova"),
    "median": MergePlan(kind="median"),
    "scaffold": MergePlan(kind="scaffold"),
    "dp_fedavg": MergePlan(kind="dp_fedavg", norm=0.05, noise_multiplier=0.5),
}


@pytest.fixture(scope="module", params=MERGES)
def honest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("honest"), MERGES[request.param])


def record(root: Path, rule: MergePlan) -> Path:
    """A run of 12 versions with refused, late and cancelled tasks, its journal, and all its histories."""
    plan = make_plan(4, merge=rule)
    config = make_config(4, rounds=12, policy={"cohort": 3, "over_select": 1.4, "quorum": 0.6})
    habits = Habits(kill=0.1, duplicate=0.1, defect=0.1, crash=0.01)
    world = World(config, 7, habits, merge_spec(plan, []))
    world.run()
    world.check_books()
    (root / "nodes" / "coordinator").mkdir(parents=True)
    (root / "plan.json").write_bytes(dump_plan(plan))
    with sqlite3.connect(root / "nodes" / "coordinator" / "journal.sqlite") as copy:
        world.journal.db.backup(copy)
    copy.close()
    writer = HistoryWriter(root / "nodes" / "coordinator" / "history.jsonl", "coordinator", "b")
    for _, event, fields in world.records:
        writer.append(event, **fields)
    writer.close()
    for agent in world.agents.values():
        writer = HistoryWriter(root / "nodes" / agent.name / "history.jsonl", agent.name, "b")
        for (name, task), sha256 in world.acked.items():
            if name == agent.name:
                writer.append("acked", task=task, sha256=sha256)
        for task, outcome in agent.settled.items():
            writer.append("settled", task=task, outcome=outcome, residual_norm=0.0)
        writer.close()
    return root


@pytest.fixture
def root(honest: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "run"))


def test_an_honest_run_passes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (root / "nodes" / "coordinator" / "journal.sqlite").read_bytes()
    result = audit(root)
    assert result.ok, result.problems
    assert result.versions == 13
    assert result.updates >= 24
    assert result.acked >= 24
    assert (root / "nodes" / "coordinator" / "journal.sqlite").read_bytes() == before
    assert main([str(root)]) == 0
    assert "nothing is amiss" in capsys.readouterr().out


def flip_a_byte(db: sqlite3.Connection) -> None:
    task, payload = db.execute("SELECT task, payload FROM updates ORDER BY position LIMIT 1").fetchone()
    changed = bytearray(payload)
    changed[-1] ^= 1
    db.execute("UPDATE updates SET payload = ? WHERE task = ?", (bytes(changed), task))


def remove_an_update(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM updates WHERE task = (SELECT task FROM merges WHERE version = 2 LIMIT 1)")


def remove_an_update_and_all_that_names_it(db: sqlite3.Connection) -> None:
    (task,) = db.execute("SELECT task FROM merges WHERE version = 2 LIMIT 1").fetchone()
    for table in ("merges", "outcomes", "updates", "tasks"):
        db.execute(f"DELETE FROM {table} WHERE task = ?", (task,))


def swap_two(db: sqlite3.Connection) -> None:
    db.execute("UPDATE merges SET position = 1 - position + 100 WHERE version = 3 AND position < 2")
    db.execute("UPDATE merges SET position = position - 100 WHERE version = 3 AND position >= 100")


def change_a_weight(db: sqlite3.Connection) -> None:
    db.execute("UPDATE merges SET samples = 99 WHERE version = 4 AND position = 0")


def change_all_weights_alike(db: sqlite3.Connection) -> None:
    """Twice of everything is the same mean: the bits alone would not tell."""
    db.execute("UPDATE merges SET samples = 2 * samples WHERE version = 4")


def change_a_factor(db: sqlite3.Connection) -> None:
    db.execute("UPDATE merges SET factor = 0.5 WHERE version = 4 AND position = 1")


def change_all_factors_alike(db: sqlite3.Connection) -> None:
    """Damping is absolute: half of every factor is half of the step."""
    db.execute("UPDATE merges SET factor = 0.5 WHERE version = 4")


def remove_a_version(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM merges WHERE version = 5")
    db.execute("DELETE FROM versions WHERE version = 5")


def remove_the_last_version(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM outcomes WHERE version = 12")
    db.execute("DELETE FROM merges WHERE version = 12")
    db.execute("DELETE FROM versions WHERE version = 12")


def change_the_initial_model(db: sqlite3.Connection) -> None:
    master = np.full(PARAMETERS, 0.5, "<f4").tobytes()
    db.execute("UPDATE snapshots SET master = ? WHERE version = 0", (master,))


def change_what_an_agent_was_told(db: sqlite3.Connection) -> None:
    db.execute("UPDATE outcomes SET outcome = 'late' WHERE task = (SELECT task FROM merges LIMIT 1)")


def change_the_server_lr(db: sqlite3.Connection) -> None:
    db.execute("UPDATE versions SET server_lr = 0.5 WHERE version = 6")


FORGERIES: list[tuple[Callable[[sqlite3.Connection], None], str]] = [
    (flip_a_byte, "its bytes are not what its sha256 says"),
    (remove_an_update, "is gone"),
    (remove_an_update_and_all_that_names_it, "saw its update of"),
    (swap_two, "stands behind an update that arrived after it"),
    (change_a_weight, "counts with 99 samples"),
    (change_all_weights_alike, "counts with 200 samples"),
    (change_a_factor, "version 4 comes out as"),
    (change_all_factors_alike, "version 4 comes out as"),
    (remove_a_version, "version 5 is missing"),
    (remove_the_last_version, "the history has version 12"),
    (change_the_initial_model, "the snapshot of version 0 is damaged"),
    (change_what_an_agent_was_told, "was told that"),
    (change_the_server_lr, "version 6 comes out as"),
]


@pytest.mark.parametrize(("forge", "named"), FORGERIES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_forgery_is_found(root: Path, forge: Callable[[sqlite3.Connection], None], named: str) -> None:
    with sqlite3.connect(root / "nodes" / "coordinator" / "journal.sqlite") as db:
        forge(db)
    db.close()
    result = audit(root)
    assert not result.ok
    assert any(named in problem for problem in result.problems), result.problems
    assert main([str(root)]) == 1


def test_an_ack_that_the_journal_does_not_have(root: Path) -> None:
    writer = HistoryWriter(root / "nodes" / "d-0" / "history.jsonl", "d-0", "b2")
    writer.append("acked", task="r7-t999", sha256="ab" * 32)
    writer.close()
    assert audit(root).problems == ("d-0 saw its update of r7-t999 acked, the journal has none",)


def test_an_ack_of_the_coordinators_own_that_the_journal_does_not_have(root: Path) -> None:
    """An update that no version has could go without a trace, together with its device's history."""
    writer = HistoryWriter(root / "nodes" / "coordinator" / "history.jsonl", "coordinator", "b2")
    writer.append("update_acked", task="r7-t999", agent="d-0", sha256="ab" * 32)
    writer.close()
    (problem,) = audit(root).problems
    assert "the update of r7-t999 by d-0 acked, the journal another or none" in problem


@pytest.mark.parametrize("node", ["coordinator", "d-1"])
def test_a_history_that_cannot_be_read_bears_no_witness(root: Path, node: str) -> None:
    path = root / "nodes" / node / "history.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], *lines[5:]]))
    assert any(f"the history of {node} has 2 gap" in problem for problem in audit(root).problems)
    path.write_bytes(b"".join([*lines[:3], b"{}\n", *lines[3:]]))
    assert any(f"the history of {node} has 1 malformed" in problem for problem in audit(root).problems)


def read_all_but_the_end(root: Path, node: str, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (root / "nodes" / node / "history.jsonl").stat().st_size
    monkeypatch.setattr(reader, limit, size - 10)


LIMITS = pytest.mark.parametrize(
    ("node", "limit"), [("d-1", "AGENT_FILE_BYTES_MAX"), ("coordinator", "FILE_BYTES_MAX")]
)


@LIMITS
def test_a_history_that_is_longer_than_is_read_is_a_limit_and_no_problem(
    root: Path, node: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any("as a whole" in x for x in audit(root).unverified)
    read_all_but_the_end(root, node, limit, monkeypatch)
    result = audit(root)
    assert result.ok, result.problems
    assert any(f"the history of {node} cannot be held against the journal" in x for x in result.unverified)
    assert main([str(root)]) == 0


def rename_a_version(db: sqlite3.Connection) -> None:
    db.execute("UPDATE versions SET sha256 = master_sha256 WHERE version = 4")


@pytest.mark.parametrize(
    ("node", "limit", "forge", "named"),
    [
        ("d-1", "AGENT_FILE_BYTES_MAX", change_what_an_agent_was_told, "was told that"),
        ("coordinator", "FILE_BYTES_MAX", rename_a_version, "the history has version 4, the journal another"),
    ],
)
def test_what_is_read_of_a_history_that_is_too_long_can_still_contradict(
    root: Path,
    node: str,
    limit: str,
    forge: Callable[[sqlite3.Connection], None],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read_all_but_the_end(root, node, limit, monkeypatch)
    with sqlite3.connect(root / "nodes" / "coordinator" / "journal.sqlite") as db:
        forge(db)
    db.close()
    assert any(named in problem for problem in audit(root).problems)


@pytest.mark.parametrize("kept", [0, 1, None], ids=["emptied", "cut-short", "removed"])
def test_a_history_that_was_cut_short_is_said_and_proves_nothing(
    root: Path, kept: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "nodes" / "d-1" / "history.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: kept or 0]))
    if kept is None:
        path.unlink()
    assert main([str(root)]) == 0
    said = capsys.readouterr().out
    (said_of,) = re.findall(r"(\d+) of the (\d+) updates of d-1 cannot be held against its history", said)
    without, updates = map(int, said_of)
    assert updates - without == (kept or 0)


@pytest.mark.parametrize("content", [None, b"", b"junk" * 500])
def test_what_cannot_be_read_is_a_problem_and_no_traceback(root: Path, content: bytes | None) -> None:
    path = root / "nodes" / "coordinator" / "journal.sqlite"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    result = audit(root)
    assert not result.ok
    assert len(result.problems) == 1


def test_another_schema_is_named(root: Path) -> None:
    with sqlite3.connect(root / "nodes" / "coordinator" / "journal.sqlite") as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    db.close()
    assert f"this version reads {JOURNAL_SCHEMA}" in audit(root).problems[0]


def published_control(root: Path, version: int) -> str:
    """c as it has to be published: recomputed from the journal's rows, a second time."""
    with journal_of(root) as db:
        rows = db.execute(
            "SELECT u.payload FROM merges m JOIN updates u ON u.task = m.task WHERE m.version <= ?",
            (version,),
        ).fetchall()
    db.close()
    moved = [decode(pair.split(payload)[1], n=PARAMETERS).dense().astype(np.float64) for (payload,) in rows]
    control = (np.sum(moved, axis=0) / 4).astype(np.float32)
    return version_sha256(to_patterns(control, "fp16"))


def test_a_control_variate_that_was_published_is_the_journals(tmp_path: Path) -> None:
    root = record(tmp_path, MERGES["scaffold"])
    writer = HistoryWriter(root / "nodes" / "coordinator" / "history.jsonl", "coordinator", "b2")
    writer.append("version_published", version=1, objects=[], control=published_control(root, 1))
    writer.append("version_published", version=0, objects=[], control=version_sha256(to_patterns(ZEROS)))
    writer.close()
    assert audit(root).ok, audit(root).problems
    writer = HistoryWriter(root / "nodes" / "coordinator" / "history.jsonl", "coordinator", "b3")
    writer.append("version_published", version=2, objects=[], control=published_control(root, 1))
    writer.append("version_published", version=3, objects=[])
    writer.close()
    assert [problem[:24] for problem in audit(root).problems] == [
        "version 2 was published ",
        "version 3 was published ",
    ]


# --- bytes that were let go ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of some forty updates of about 70 bytes the last few are kept."""
    return record(tmp_path_factory.mktemp("trimmed"), MergePlan(kind="fedavgm", journal_bytes_max=800))


def journal_of(root: Path) -> sqlite3.Connection:
    return sqlite3.connect(root / "nodes" / "coordinator" / "journal.sqlite")


def test_the_oldest_bytes_go_and_the_audit_says_what_it_cannot_recompute(
    trimmed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with journal_of(trimmed) as db:
        held = db.execute("SELECT sum(bytes) FROM updates WHERE payload IS NOT NULL").fetchone()[0]
        total = db.execute("SELECT sum(bytes) FROM updates").fetchone()[0]
    db.close()
    assert total > 2 * 800
    assert held <= 800 + 4 * 200, "what is not settled yet is never let go"
    result = audit(trimmed)
    assert result.ok, result.problems
    ((first, last),) = result.not_recomputed
    assert first == 1
    assert 1 <= last < 12
    assert result.versions == 13 - (last - first + 1)
    assert main([str(trimmed)]) == 0
    assert f"versions 1 to {last} cannot be recomputed" in capsys.readouterr().out


def let_go_of_the_last(db: sqlite3.Connection) -> None:
    db.execute("UPDATE updates SET payload = NULL WHERE task IN (SELECT task FROM merges WHERE version = 12)")


def remove_the_snapshot_that_stands_for_them(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM snapshots WHERE version > 0")


def change_the_snapshot_that_stands_for_them(db: sqlite3.Connection) -> None:
    version, old = db.execute(
        "SELECT version, master FROM snapshots ORDER BY version DESC LIMIT 1"
    ).fetchone()
    master = (np.frombuffer(old, "<f4") + np.float32(0.1)).tobytes()
    row = (hashlib.sha256(master).hexdigest(), master, version)
    db.execute("UPDATE snapshots SET sha256 = ?, master = ? WHERE version = ?", row)


@pytest.mark.parametrize(
    ("forge", "named"),
    [
        (let_go_of_the_last, "those of an older one of version"),
        (remove_the_snapshot_that_stands_for_them, "no snapshot holds what it did"),
        (change_the_snapshot_that_stands_for_them, "its snapshot is another model"),
    ],
)
def test_bytes_that_should_be_there_are_missed(
    trimmed: Path, tmp_path: Path, forge: Callable[[sqlite3.Connection], None], named: str
) -> None:
    root = Path(shutil.copytree(trimmed, tmp_path / "run"))
    with journal_of(root) as db:
        forge(db)
    db.close()
    assert any(named in problem for problem in audit(root).problems), audit(root).problems


def test_bytes_that_had_room_are_missed(root: Path) -> None:
    with journal_of(root) as db:
        db.execute("UPDATE updates SET payload = NULL WHERE position < 3")
    db.close()
    assert any("fit into journal_bytes_max" in problem for problem in audit(root).problems)


@pytest.mark.parametrize("emptied", [True, False])
def test_without_the_coordinators_history_nothing_is_proved(root: Path, emptied: bool) -> None:
    path = root / "nodes" / "coordinator" / "history.jsonl"
    path.write_bytes(b"") if emptied else path.unlink()
    result = audit(root)
    assert not result.ok
    assert any("history is missing or empty" in problem for problem in result.problems)
