"""Recorded decisions: the state survives being written down, a replay agrees, and disagrees where it must."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
from coordinator_world import World, make_config
from test_coordinator_random import HARSH, SCHEDULES

from coordinator.decisions import (
    Beginning,
    Decided,
    DecisionLog,
    RecordedCore,
    pack_state,
    path_of,
    recorded,
    unpack_state,
)
from coordinator.replay import replay


class Recording(World):
    """Every life of its coordinator writes decisions."""

    def __init__(self, root: Path, *rest: Any) -> None:
        folder = path_of(root, 1).parent
        folder.mkdir(parents=True)

        def core_type(config: Any, state: Any) -> RecordedCore:
            return RecordedCore(config, state, log=DecisionLog(path_of(root, state.epoch)))

        self.core_type = core_type  # type: ignore[assignment]
        super().__init__(*rest)

    def keep(self, root: Path) -> None:
        self.journal.db.execute(f"VACUUM INTO '{path_of(root, 1).parent / 'journal.sqlite'}'")


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Recording]:
    world = Recording(tmp_path, make_config(6, rounds=5, policy=SCHEDULES["buffered"]), 3, HARSH)
    world.run()
    world.keep(tmp_path)
    assert world.crashes > 0
    return tmp_path, world


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_state_survives_being_written_down(schedule: str) -> None:
    world = World(make_config(6, rounds=4, policy=SCHEDULES[schedule]), 3, HARSH)
    world.run()
    packed = pack_state(world.core.state)
    again = unpack_state(packed)
    assert again == world.core.state
    assert pack_state(again) == packed
    assert all(task is again.tasks[name] for name, task in again.unended.items())


def test_every_boot_is_replayed(run: tuple[Path, Recording]) -> None:
    root, world = run
    found = replay(root)
    assert found.difference == ""
    assert (found.boots, found.versions) == (world.crashes + 1, 5)
    assert found.events > 100


def test_a_replay_leaves_nothing_in_the_record(run: tuple[Path, Recording]) -> None:
    root, _ = run
    journal = path_of(root, 1).parent / "journal.sqlite"
    with sqlite3.connect(journal) as db:
        db.execute("PRAGMA journal_mode = WAL")  # as the coordinator leaves it
    db.close()
    before = sorted(path.name for path in journal.parent.iterdir())
    assert replay(root).difference == ""
    assert sorted(path.name for path in journal.parent.iterdir()) == before


def test_decisions_that_are_no_file_are_a_difference(run: tuple[Path, Recording]) -> None:
    root, _ = run
    path_of(root, 1).unlink()
    path_of(root, 1).mkdir()
    assert "decisions-1.bin, which cannot be read" in replay(root).difference


def test_a_torn_end_is_no_difference(run: tuple[Path, Recording]) -> None:
    root, _ = run
    first = path_of(root, 1)
    first.write_bytes(first.read_bytes()[:-3])
    assert replay(root).difference == ""


def rewrite(path: Path, change: Any) -> None:
    frames = [change(number, frame) for number, frame in enumerate(recorded(path))]
    log = DecisionLog(path)
    for frame in frames:
        log.append(frame)


def test_another_decision_is_named(run: tuple[Path, Recording]) -> None:
    root, _ = run

    def change(number: int, frame: Beginning | Decided) -> Beginning | Decided:
        if number == 10 and isinstance(frame, Decided):
            return msgspec.structs.replace(frame, digest="0" * 16)
        return frame

    rewrite(path_of(root, 1), change)
    assert "decisions-1.bin: event" in replay(root).difference


def test_another_moment_makes_another_run(run: tuple[Path, Recording]) -> None:
    root, _ = run

    def change(number: int, frame: Beginning | Decided) -> Beginning | Decided:
        if isinstance(frame, Decided) and number > 20:
            return msgspec.structs.replace(frame, now=frame.now + 40.0)
        return frame

    rewrite(path_of(root, 1), change)
    assert replay(root).difference


def test_a_version_that_nobody_decided_is_found(run: tuple[Path, Recording]) -> None:
    root, _ = run
    db = sqlite3.connect(path_of(root, 1).parent / "journal.sqlite")
    db.execute("UPDATE merges SET factor = factor / 2 WHERE version = 2 AND position = 0")
    db.commit()
    assert "version 2 was committed as" in replay(root).difference


def test_a_full_disk_ends_the_recording_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = DecisionLog(tmp_path / "d.bin", bytes_max=10)
    log.append(Beginning(1, 1, make_config(1), msgspec.Raw(b"\xc0")))
    assert "no longer recorded" in capsys.readouterr().err
    log.append(Beginning(1, 1, make_config(1), msgspec.Raw(b"\xc0")))
    assert (tmp_path / "d.bin").read_bytes() == b""


@pytest.mark.parametrize("kept_bytes", [None, 0, 50, 5_000])
def test_a_damaged_journal_is_a_difference(run: tuple[Path, Recording], kept_bytes: int | None) -> None:
    root, _ = run
    journal = path_of(root, 1).parent / "journal.sqlite"
    content = journal.read_bytes()
    journal.unlink()
    if kept_bytes is not None:
        journal.write_bytes(content[:kept_bytes])
    assert replay(root).difference.startswith("journal.sqlite, which is ")
