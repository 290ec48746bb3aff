"""What a restarted hostd leaves alone."""

from __future__ import annotations

from pathlib import Path

from emulation.faults import telling
from emulation.faults.core import Apply
from emulation.hostd import _already_fired
from history.reader import Tail
from history.writer import HistoryWriter
from topology.compile import compile_topology
from topology.validate import parse_topology

FILE = """
name: f
devices: {pi: {profile: raspberry-pi-4, count: 2, link: lte}}
data: {dataset: mnist-mini}
model: mlp
training: {rounds: 3}
faults:
  - {at: 1 s, kill: pi-1, heal_after: 1 s}
  - {at: 2 s, pause: pi-2, heal_after: 1 s}
"""


def test_a_fault_that_did_not_take_is_not_fired_by_the_next_hostd(tmp_path: Path) -> None:
    plan = compile_topology(parse_topology(FILE).topology, "r")
    struck, contradicted = plan.faults
    history = HistoryWriter(tmp_path / "history.jsonl", "hostd")
    telling.armed(history, plan.faults)
    telling.applied(history, Apply(struck, 0.0), lateness_s=0.0)
    telling.verified(history, struck, ok=True, detail="")
    telling.verified(
        history, contradicted, ok=False, detail=f"contradicts {struck.id}, which is in force on pi-2"
    )
    history.close()
    assert _already_fired(Tail(tmp_path / "history.jsonl", "hostd")) == [struck.id, contradicted.id]
