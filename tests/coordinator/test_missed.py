"""A history that a kill cut short: what is said once more is what the journal knows and the file does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from coordinator_world import Habits, World, make_config

from coordinator.missed import NAMED_BY, missed, told
from history.writer import HistoryWriter


def key(event: str, fields: dict[str, Any]) -> tuple[str, object]:
    return event, fields[NAMED_BY[event]]


@pytest.fixture(scope="module")
def world() -> World:
    """Six rounds with timeouts, so that updates are merged and discarded."""
    made = World(make_config(4, rounds=6), 4, Habits(fail=0.1, defect=0.2, train_s=(1.0, 60.0)))
    made.run()
    return made


def happened(world: World) -> list[tuple[str, dict[str, Any]]]:
    return [(event, fields) for _, event, fields in world.records if event in NAMED_BY]


def write(path: Path, events: list[tuple[str, dict[str, Any]]]) -> Path:
    writer = HistoryWriter(path / "history.jsonl", "coordinator")
    for event, fields in events:
        writer.append(event, **fields)
    writer.close()
    return writer.path


def test_the_world_has_every_kind(world: World) -> None:
    assert {event for event, _ in happened(world)} == set(NAMED_BY)


def test_a_whole_history_lacks_nothing(world: World, tmp_path: Path) -> None:
    assert list(missed(world.journal, write(tmp_path, happened(world)))) == []


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7, 0.95])
def test_whatever_was_cut_off_is_said_once_more(world: World, tmp_path: Path, kept: float) -> None:
    every = happened(world)
    path = write(tmp_path, every[: int(kept * len(every))])
    said = list(missed(world.journal, path))
    assert all(fields["restored"] for _, fields in said)
    assert told(path) | {key(*one) for one in said} == {key(*one) for one in every}
    assert len(said) == len({key(*one) for one in said}) == len(every) - len(told(path))


def test_what_is_said_once_more_is_what_was_said_first(world: World, tmp_path: Path) -> None:
    first = {key(event, fields): fields for event, fields in happened(world)}
    for event, fields in missed(world.journal, tmp_path / "none"):
        again = {name: value for name, value in fields.items() if name != "restored"}
        assert again == {name: first[key(event, fields)][name] for name in again}


def test_a_torn_line_was_not_told(world: World, tmp_path: Path) -> None:
    every = happened(world)
    path = write(tmp_path, every)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    (again,) = missed(world.journal, path)
    assert key(*again) == key(*every[-1])
