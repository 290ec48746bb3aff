"""Why a run is waiting: for whom, since when, until when, what each one last said, whatever its schedule."""

from __future__ import annotations

from pathlib import Path

import pytest
from coordinator_world import make_config
from support.rig_root import make_plan
from test_coordinator_stories import Stage

from edgerig.status import RunStatus, describe
from history.writer import HistoryWriter
from wire import messages as m


def status_of(stage: Stage, root: Path) -> RunStatus:
    """What the command says of the history that the core wrote until now; one event a second."""
    (root / "nodes" / "coordinator").mkdir(parents=True)
    moments = iter(range(1_000_000))
    writer = HistoryWriter(
        root / "nodes" / "coordinator" / "history.jsonl", "coordinator", mono=lambda: float(next(moments))
    )
    for action in stage.done:
        if hasattr(action, "event"):
            writer.append(action.event, **action.fields)
    writer.close()
    return describe(root, make_plan())


@pytest.mark.parametrize("kind", ["synchronous", "buffered", "asynchronous", "tiered", "fedat"])
def test_it_says_for_whom_since_when_and_until_when(kind: str, tmp_path: Path) -> None:
    policy = {"kind": kind, "cohort": 3, "concurrency": 3, "buffer": 3, "deadline_s": 60.0, "tiers": 2}
    stage = Stage(make_config(3, policy=policy))
    stage.everybody()
    stage.say("d-1", m.Progress(task=stage.task("d-1"), phase="training", done=0, total=1))
    stage.wait(8.0)
    text = status_of(stage, tmp_path).text()
    (line,) = [line for line in text.splitlines() if "d-1" in line and "last heard of" in line]
    assert "training, for 5 s" in line
    assert "at most 5" in line
    assert "waiting for 0 of" in text


def test_who_has_given_its_update_is_no_longer_waited_for(tmp_path: Path) -> None:
    stage = Stage(
        make_config(3, policy={"kind": "buffered", "concurrency": 2, "buffer": 5, "deadline_s": 60.0})
    )
    stage.everybody()
    stage.wait(6.0)
    busy = [name for name in stage.config.agents if stage.task(name)]
    stage.give(busy[0])
    waited = [item["agent"] for item in status_of(stage, tmp_path).waiting]
    assert waited == [busy[1]]
