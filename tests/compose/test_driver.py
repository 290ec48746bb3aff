"""The driver with a runtime made of plain objects and a clock that the test moves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compose.driver import DEAD_GRACE_S, NODES_EVERY_S, Driver, run_timeout_s
from compose.errors import EnvironmentProblem, Interrupted
from compose.runtime import NodeState
from history.events import Event
from history.writer import HistoryWriter
from topology.compile import compile_topology
from topology.plan import Plan
from topology.validate import parse_topology

TOPOLOGY = """
name: t
seed: 1
devices: {pi: {profile: raspberry-pi-4, count: 2, link: home-wifi}}
data: {dataset: mnist-mini, samples_per_device: 100}
model: mlp
training: {rounds: 2}
policy: {kind: synchronous, cohort: 2, deadline: 30 s, quorum: 1.0}
"""


def a_plan() -> Plan:
    return compile_topology(parse_topology(TOPOLOGY).topology, "t-1")


class FakeRuntime:
    """Plays a script of node states; remembers what was asked of it."""

    def __init__(self, script: list[dict[str, int | None]], failure: BaseException | None = None) -> None:
        self.script, self.failure = script, failure
        self.stopped = 0
        self.handled: list[Event] = []

    def start(self) -> None:
        if self.failure:
            raise self.failure

    def nodes(self) -> list[NodeState]:
        now = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return [
            NodeState(name=name, role=name, running=code is None, exit_code=code)  # type: ignore[arg-type]
            for name, code in now.items()
        ]

    def facts(self) -> dict[str, object]:
        return {"services": list(UP)}

    def handle(self, events: list[Event], now: float) -> None:
        self.handled += events

    def log_tail(self, node: str, lines: int = 12) -> list[str]:
        return [f"last words of {node}"]

    def save_logs(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def stop(self) -> None:
        self.stopped += 1

    def left(self) -> list[str]:
        return []


class Silent:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def feed(self, event: Event) -> None:
        self.seen.append(event.event)

    def tick(self, now: float) -> None: ...


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def drive(root: Path, runtime: FakeRuntime) -> tuple[Driver, Silent, Clock]:
    clock, watcher = Clock(), Silent()
    return Driver(runtime, a_plan(), root, watcher, clock=clock, wait=clock.wait), watcher, clock


UP: dict[str, int | None] = {"broker": None, "coordinator": None, "hostd": None}


def test_ends_when_coordinator_and_hostd_have_ended(tmp_path: Path) -> None:
    runtime = FakeRuntime([UP, UP, {**UP, "coordinator": 0}, {**UP, "coordinator": 0, "hostd": 0}])
    driver, watcher, clock = drive(tmp_path, runtime)
    driver.run()
    assert runtime.stopped == 1
    assert clock.now == pytest.approx(3 * NODES_EVERY_S)
    assert "down" in watcher.seen


def test_a_service_that_dies_is_named_with_its_last_words(tmp_path: Path) -> None:
    runtime = FakeRuntime([UP, {**UP, "broker": 1}])
    driver, _, clock = drive(tmp_path, runtime)
    with pytest.raises(EnvironmentProblem) as caught:
        driver.run()
    assert "broker ended with exit code 1" in caught.value.what
    assert caught.value.log == ("last words of broker",)
    assert clock.now < DEAD_GRACE_S + 3
    assert runtime.stopped == 1


def test_a_restart_is_no_end(tmp_path: Path) -> None:
    away = {**UP, "broker": 137, "coordinator": 137}
    over = {**UP, "coordinator": 0, "hostd": 0}
    runtime = FakeRuntime([UP, away, away, UP, over])
    driver, _, _ = drive(tmp_path, runtime)
    driver.run()
    assert runtime.stopped == 1


def test_a_service_that_a_fault_took_is_waited_for(tmp_path: Path) -> None:
    hostd = HistoryWriter(tmp_path / "nodes" / "hostd" / "history.jsonl", "hostd")
    hostd.append(
        "fault_applied", fault="kill-1", kind="kill", targets=["broker"], lateness_s=0.0, durable=True
    )
    away = {**UP, "broker": 137}
    runtime = FakeRuntime([UP, *[away] * 30, {**UP, "coordinator": 0, "hostd": 0}])
    driver, _, clock = drive(tmp_path, runtime)
    driver.run()
    assert clock.now > 2 * DEAD_GRACE_S


def test_a_run_that_hangs_is_ended(tmp_path: Path) -> None:
    runtime = FakeRuntime([UP])
    driver, _, clock = drive(tmp_path, runtime)
    with pytest.raises(EnvironmentProblem, match="did not end"):
        driver.run()
    assert run_timeout_s(a_plan()) <= clock.now <= run_timeout_s(a_plan()) + 1
    assert runtime.stopped == 1


@pytest.mark.parametrize("failure", [EnvironmentProblem("no"), Interrupted("SIGINT")])
def test_whatever_stops_it_is_torn_down_and_recorded(tmp_path: Path, failure: BaseException) -> None:
    runtime = FakeRuntime([UP], failure)
    driver, _, _ = drive(tmp_path, runtime)
    with pytest.raises(type(failure)):
        driver.run()
    assert runtime.stopped == 1
    lines = (tmp_path / "nodes/runner/history.jsonl").read_text().splitlines()
    assert json.loads(lines[-2])["event"] in ("down", "interrupted")
    assert json.loads(lines[-1])["fields"] == {"left": []}


def test_what_a_device_writes_about_the_run_is_not_believed(tmp_path: Path) -> None:
    """Neither does it end the run, nor excuse a dead service, nor break the runner by fields that are not there."""
    device = HistoryWriter(tmp_path / "nodes" / "pi-1" / "history.jsonl", "pi-1")
    device.append("fault_applied", targets=["broker"])
    device.append("fault_healed")
    device.append("run_finished", durable=True)
    driver, _, _ = drive(tmp_path, FakeRuntime([UP, {**UP, "broker": 1}]))
    with pytest.raises(EnvironmentProblem) as caught:
        driver.run()
    assert "broker ended" in caught.value.what
