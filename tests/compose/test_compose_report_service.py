"""The report service waits for the end that the history tells, and copies the record but no secret."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from compose_plans import plan_of

from compose.driver import run_timeout_s
from compose.prepare import prepare
from compose.report_service import AFTER_FINISH_S, copy_record, report, wait_for_end
from history.writer import HistoryWriter
from topology.plan import Plan


class Clock:
    """Time that passes only by waiting; `script` happens at its second."""

    def __init__(self, script: dict[float, tuple[HistoryWriter, str]]) -> None:
        self.now, self._script = 0.0, script

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds
        for at in [at for at in self._script if at <= self.now]:
            writer, event = self._script.pop(at)
            writer.append(event, reason="rounds")
            writer.sync()


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[dict[str, HistoryWriter]]:
    made = {}
    for node in ("coordinator", "hostd", "pi4-1"):
        (tmp_path / "nodes" / node).mkdir(parents=True)
        made[node] = HistoryWriter(tmp_path / "nodes" / node / "history.jsonl", node)
    yield made
    for writer in made.values():
        writer.close()


PLAN: Plan = plan_of(uid=os.geteuid())


def wait(clock: Clock, root: Path) -> bool:
    return wait_for_end(PLAN, root, clock=clock, wait=clock.wait, say=lambda _text: None)


def test_it_ends_when_hostd_has_healed_the_host(tmp_path: Path, writers: dict[str, HistoryWriter]) -> None:
    clock = Clock({50: (writers["coordinator"], "run_finished"), 60: (writers["hostd"], "healed_all")})
    assert wait(clock, tmp_path)
    assert 60 <= clock.now <= 62


def test_without_hostd_it_ends_a_while_after_the_coordinator(
    tmp_path: Path, writers: dict[str, HistoryWriter]
) -> None:
    clock = Clock({50: (writers["coordinator"], "run_finished")})
    assert wait(clock, tmp_path)
    assert 50 + AFTER_FINISH_S <= clock.now <= 52 + AFTER_FINISH_S


def test_an_agent_cannot_end_the_run(tmp_path: Path, writers: dict[str, HistoryWriter]) -> None:
    clock = Clock({5: (writers["pi4-1"], "run_finished"), 6: (writers["pi4-1"], "healed_all")})
    assert not wait(clock, tmp_path)
    assert clock.now >= run_timeout_s(PLAN)


def test_the_record_is_copied_without_secrets_or_data(
    tmp_path: Path, writers: dict[str, HistoryWriter]
) -> None:
    prepare(PLAN, tmp_path)
    writers["pi4-1"].append("agent_started", software="x", threads=1)
    writers["pi4-1"].sync()
    (tmp_path / "nodes" / "coordinator" / "journal.sqlite").write_bytes(b"journal")
    (tmp_path / "nodes" / "pi5-1" / "history.jsonl").symlink_to("/etc/hostname")
    out = tmp_path / "out"
    copy_record(tmp_path, out)
    copied = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {"plan.json", "nodes/pi4-1/history.jsonl", "nodes/coordinator/journal.sqlite"} <= copied
    assert not [path for path in copied if path.startswith(("private", "shards", "nodes/pi5-1"))]


def test_a_run_that_never_ended_is_reported_as_such(
    tmp_path: Path, writers: dict[str, HistoryWriter]
) -> None:
    prepare(PLAN, tmp_path)
    summary = report(tmp_path, tmp_path / "out", finished=False)
    assert summary.verdict == "interrupted"
    assert summary.exit_code == 4
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000
    copy_record(tmp_path, tmp_path / "out")  # repeatable
