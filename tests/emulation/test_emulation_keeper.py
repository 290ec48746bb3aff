"""What the link keeper does with links that vary, on a backend that only remembers: no namespace, no clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from emulation.commands import CommandError
from emulation.link_keeper import LinkKeeper
from emulation.links.base import LinkEnds
from emulation.links.none import NoneBackend
from emulation.undo import UndoFile
from history.writer import HistoryWriter
from topology.compile import compile_topology
from topology.plan import Link
from topology.validate import parse_topology

TEXT = """
name: x
devices:
  a: {profile: laptop, cpus: 0.1, link: {delay: 5 ms, up: {rate: 4 Mbit/s,
      vary: {steps: [{at: 1 s, rate: 1 Mbit/s}, {at: 3 s, rate: 2 Mbit/s}], repeat: 4 s}}}}
  b: {profile: laptop, cpus: 0.1, link: lte}
data: {dataset: mnist-mini}
model: mlp
training: {rounds: 1}
policy: {deadline: 10 h}
"""


class Remembering(NoneBackend):
    def __init__(self) -> None:
        self.changes: list[tuple[str, int | None]] = []
        self.broken = False

    def change(self, ends: LinkEnds, link: Link) -> None:
        if self.broken:
            raise CommandError(["tc"], 2, "Cannot find device")
        self.changes.append((ends.device, link.up.rate_bit_s))


class Ends:
    """As much of a link's ends as a backend that does nothing looks at."""

    def __init__(self, device: str) -> None:
        self.device = device


def keeper(tmp_path: Path) -> tuple[LinkKeeper, Remembering, Path]:
    plan, backend = compile_topology(parse_topology(TEXT).topology, "r"), Remembering()
    path = tmp_path / "history.jsonl"
    made = LinkKeeper(plan, backend, HistoryWriter(path, "hostd"), UndoFile(tmp_path / "undo.jsonl"))
    for device in ("a-1", "b-1"):
        made._ends[device] = Ends(device)  # type: ignore[assignment]
    return made, backend, path


def recorded(path: Path, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line["fields"] for line in lines if line["event"] == event]


def test_a_link_follows_its_steps_from_the_start_on_and_each_is_on_record(tmp_path: Path) -> None:
    made, backend, path = keeper(tmp_path)
    made.vary(99.0)
    assert backend.changes == []
    made.start_varying(100.0)
    for now in (100.0, 100.5, 101.02, 101.5, 103.0, 104.0, 105.0):
        made.vary(now)
    assert backend.changes == [("a-1", rate) for rate in (1_000_000, 2_000_000, 4_000_000, 1_000_000)]
    made._history.sync()
    found = recorded(path, "link_varied")
    assert [(e["device"], e["at_s"], e["up"]["rate_bit_s"]) for e in found][:2] == [
        ("a-1", 1.02, 1_000_000),
        ("a-1", 3.0, 2_000_000),
    ]


def test_a_fault_suspends_the_course_and_its_heal_takes_it_up(tmp_path: Path) -> None:
    made, backend, _ = keeper(tmp_path)
    made.start_varying(0.0)
    slow = Link(name="slow", up=made.planned("b-1").up, down=made.planned("b-1").down)
    made.change("a-1", slow)
    made.vary(1.5)
    assert backend.changes == [("a-1", 12_000_000)]
    made.change("a-1", made.planned("a-1"))
    made.vary(1.6)
    assert backend.changes[1:] == [("a-1", 4_000_000), ("a-1", 1_000_000)]


def test_a_change_that_fails_is_a_lapse_and_the_next_one_is_made(tmp_path: Path) -> None:
    made, backend, path = keeper(tmp_path)
    made.start_varying(0.0)
    backend.broken = True
    made.vary(1.0)
    backend.broken = False
    made.vary(3.0)
    assert backend.changes == [("a-1", 2_000_000)]
    made._history.sync()
    assert [e["what"] for e in recorded(path, "lapse")] == ["link_not_varied"]
    assert len(recorded(path, "link_varied")) == 1


def test_a_device_that_is_away_changes_nothing_and_is_right_when_it_comes_back(tmp_path: Path) -> None:
    made, backend, _ = keeper(tmp_path)
    made.start_varying(0.0)
    del made._ends["a-1"]
    made.vary(1.0)
    assert backend.changes == []
    assert made._courses.now("a-1").up.rate_bit_s == 1_000_000
