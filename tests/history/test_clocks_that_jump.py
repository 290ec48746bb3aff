"""A run told by clocks that jump: the machine was started again in its middle, or somebody set the wall clock."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import synthetic_run as run

from history.collect import collect
from history.reader import read_history
from history.summary import Summary

HOURS_S = 3 * 3_600.0
OFF_S = 600.0  # how long the machine was off
BACK_S = 0.5  # what its clock shows when the coordinator is back

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def split_s() -> float:
    """Between two rounds."""
    opened = (x for x in run.whole_run().lines if x.event == "round_opened" and x.fields["round"] == 4)
    return run.BOOTED_S + next(opened).at - 0.05


def changed(root: Path, change: Change) -> Path:
    """Every line of every producer, with another envelope."""
    run.whole_run().write(root)
    for path in root.glob("nodes/*/history.jsonl"):
        lines = [json.loads(line) for line in path.read_bytes().splitlines() if line]
        for line in lines:
            change(line)
        seqs: dict[str, int] = {}
        for line in lines:
            seqs[line["boot"]] = line["seq"] = seqs.get(line["boot"], -1) + 1
        path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    return root


def started_again(split_s: float, wall_s: float) -> Change:
    """All stamps behind `split_s` are those of a machine that was off, and whose wall clock came back with `wall_s`."""

    def change(line: dict[str, Any]) -> None:
        if line["mono_s"] >= split_s:
            line["boot"] = "again" + line["boot"][:2]
            line["wall_s"] += wall_s
            line["mono_s"] += BACK_S - split_s

    return change


def figures(summary: Summary) -> tuple[object, ...]:
    s = summary
    learning = (s.verdict, s.reasons, s.rounds, s.versions, s.final_accuracy, s.started_at)
    return (*learning, s.updates_merged, s.updates_lost, s.uplink_bytes, s.finish_reason)


@pytest.mark.parametrize("off_s", [-HOURS_S, HOURS_S])
def test_a_wall_clock_that_is_set_by_hours_changes_no_figure(
    tmp_path: Path, split_s: float, off_s: float
) -> None:
    def change(line: dict[str, Any]) -> None:
        line["wall_s"] += off_s if line["mono_s"] >= split_s else 0.0

    plain = collect(run.whole_run().write(tmp_path / "plain"), run.make_plan())
    found = collect(changed(tmp_path / "jumped", change), run.make_plan())
    assert msgspec.to_builtins(found) == msgspec.to_builtins(plain)


@pytest.mark.parametrize("wall_s", [OFF_S, 0.0, -HOURS_S], ids=["off", "at-once", "wall-went-back"])
def test_a_machine_that_was_started_again_goes_on_with_the_story(
    tmp_path: Path, split_s: float, wall_s: float
) -> None:
    plain = collect(run.whole_run().write(tmp_path / "plain"), run.make_plan())
    root = changed(tmp_path / "again", started_again(split_s, wall_s))
    found = collect(root, run.make_plan())
    assert figures(found) == figures(plain)
    assert found.wall_s is not None
    assert plain.wall_s is not None
    assert plain.wall_s - 0.2 <= found.wall_s <= plain.wall_s + max(wall_s, 0.0) + 0.2
    curve = [(point.version, point.at_s) for point in found.accuracy]
    assert curve == sorted(curve)


def test_rounds_are_told_in_the_order_in_which_they_were(tmp_path: Path, split_s: float) -> None:
    history = read_history(changed(tmp_path, started_again(split_s, OFF_S)))
    assert history.defects == []
    stamps = [event.mono_s for event in history.events]
    assert stamps == sorted(stamps)
    told = [
        (event.get("round"), event.event)
        for event in history.events
        if event.node == "coordinator" and event.event in ("round_opened", "round_closed")
    ]
    assert told == [(n, what) for n in range(1, run.ROUNDS + 1) for what in ("round_opened", "round_closed")]


def test_a_boot_that_begins_later_keeps_its_stamps_and_the_third_follows_the_second(tmp_path: Path) -> None:
    path = tmp_path / "nodes" / "a" / "history.jsonl"
    path.parent.mkdir(parents=True)
    stamps = [
        ("b1", 100.0, 0.0),
        ("b2", 110.0, 10.0),
        ("b3", 2.0, 70.0),
        ("b3", 4.0, 72.0),
        ("b4", 9.0, 77.0),
    ]
    path.write_text(
        "".join(
            json.dumps(
                {"node": "a", "boot": boot, "seq": 0 if boot != last else 1, "mono_s": mono_s}
                | {"wall_s": 1.7e9 + wall_s, "event": "x", "fields": {}}
            )
            + "\n"
            for (last, _, _), (boot, mono_s, wall_s) in pairwise([("", 0.0, 0.0), *stamps])
        )
    )
    found = [(event.boot, event.mono_s) for event in read_history(tmp_path).events]
    assert found == [("b1", 100.0), ("b2", 110.0), ("b3", 170.0), ("b3", 172.0), ("b4", 177.0)]
