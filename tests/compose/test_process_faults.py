"""Faults of the process runtime on real processes: they take, they are verified, they heal."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compose.process_faults import STOPPED, FaultExecutor, _state
from compose.process_service import STOP_WAIT_S, Service
from emulation.faults.core import Apply, Heal
from history.reader import read_history
from history.writer import HistoryWriter
from topology.plan import FaultPlan, Trigger


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Service]:
    service = Service("pi-1", "agent", ["sleep", "60"], tmp_path / "log")
    service.start()
    yield service
    if service.process is not None:
        service.process.kill()
        service.process.wait(5)


def fault(kind: str) -> FaultPlan:
    return FaultPlan(
        id=f"{kind}-1", kind=kind, trigger=Trigger(at_s=1.0), targets=("pi-1",), heal_after_s=1.0
    )


def executed(tmp_path: Path, device: Service, kind: str) -> tuple[FaultExecutor, HistoryWriter]:
    """At 1.0 the fault strikes, at 1.25 it is looked at again; the kernel has had its time by then."""
    history = HistoryWriter(tmp_path / "nodes" / "processes" / "history.jsonl", "processes")
    executor = FaultExecutor({"pi-1": device}, history)
    process = device.process
    assert process is not None
    executor.perform([Apply(fault(kind), lateness_s=0.25)], 1.0)
    if kind == "pause":
        deadline = time.monotonic() + 10
        while _state(device.pid) not in STOPPED and time.monotonic() < deadline:
            os.sched_yield()
    else:
        process.wait(10)
    executor.tick(1.25)
    return executor, history


def told(tmp_path: Path, history: HistoryWriter, event: str) -> list[dict[str, object]]:
    history.sync()
    return [e.fields for e in read_history(tmp_path).events if e.event == event]


def verified(tmp_path: Path, history: HistoryWriter) -> bool:
    (verdict,) = told(tmp_path, history, "fault_verified")
    return verdict["ok"] is True


@pytest.mark.parametrize("kind", ["kill", "stop"])
def test_a_dead_process_is_started_again(tmp_path: Path, device: Service, kind: str) -> None:
    executor, history = executed(tmp_path, device, kind)
    before = device.pid
    assert verified(tmp_path, history)
    assert not device.running
    executor.perform([Heal(fault(kind))], 2.0)
    assert device.running
    assert device.pid != before


def test_a_paused_process_goes_on(tmp_path: Path, device: Service) -> None:
    executor, history = executed(tmp_path, device, "pause")
    assert verified(tmp_path, history)
    assert _state(device.pid) == "T"
    executor.perform([Heal(fault("pause"))], 2.0)
    assert _state(device.pid) in ("S", "R")


def test_a_restart_is_over_when_the_process_is_there_again(tmp_path: Path, device: Service) -> None:
    before = device.pid
    executor, history = executed(tmp_path, device, "restart")
    assert device.running
    assert device.pid != before
    assert verified(tmp_path, history)
    (healed,) = told(tmp_path, history, "fault_healed")
    assert healed["wall_s"] in (0.0, 0.25), "in the caller's time, whose clock this is"
    assert healed["left_stopped"] is False
    executor.close([Heal(fault("restart"), final=True)], 3.0)
    assert len(told(tmp_path, history, "fault_healed")) == 1


def test_a_fault_without_effect_is_not_verified_and_holds_nobody_up(tmp_path: Path) -> None:
    history = HistoryWriter(tmp_path / "nodes" / "processes" / "history.jsonl", "processes")
    idle = Service("pi-1", "agent", ["true"], tmp_path / "log")  # never started: nothing can happen to it
    executor = FaultExecutor({"pi-1": idle}, history)
    executor.perform([Apply(fault("kill"), lateness_s=0.0)], 100.0)
    executor.tick(100.0 + STOP_WAIT_S - 0.1)
    assert told(tmp_path, history, "fault_verified") == []
    executor.tick(100.0 + STOP_WAIT_S)
    assert not verified(tmp_path, history)


STUBBORN = "import signal; print(1, flush=True); signal.pause()"


def test_a_process_that_takes_its_time_to_end_is_started_again_when_it_has(tmp_path: Path) -> None:
    """The heal is due before it has ended: nobody waits for it, and it does not stay dead either."""
    service = Service("pi-1", "agent", [sys.executable, "-c", STUBBORN], tmp_path / "log")
    service.start()
    assert service.process is not None
    deadline = time.monotonic() + 20
    while not service.log.read_text() and time.monotonic() < deadline:
        os.sched_yield()
    os.kill(service.pid, signal.SIGSTOP)  # it will not end before it is let go
    while _state(service.pid) not in STOPPED and time.monotonic() < deadline:
        os.sched_yield()  # of two signals that wait, the kernel would deliver the SIGTERM first
    history = HistoryWriter(tmp_path / "nodes" / "processes" / "history.jsonl", "processes")
    executor = FaultExecutor({"pi-1": service}, history)
    executor.perform([Apply(fault("stop"), lateness_s=0.0)], 1.0)
    executor.perform([Heal(fault("stop"))], 2.0)
    before = service.pid
    executor.tick(2.25)
    assert told(tmp_path, history, "fault_healed") == []
    os.kill(service.pid, signal.SIGCONT)
    service.process.wait(20)
    executor.tick(3.0)
    try:
        assert service.running
        assert service.pid != before
        assert verified(tmp_path, history)
        (healed,) = told(tmp_path, history, "fault_healed")
        assert healed["wall_s"] == 1.0
    finally:
        service.process.kill()
        service.process.wait(5)


def test_at_the_end_the_dead_stay_dead(tmp_path: Path, device: Service) -> None:
    executor, history = executed(tmp_path, device, "kill")
    executor.close([Heal(fault("kill"), final=True)], 2.0)
    assert not device.running
    (healed,) = told(tmp_path, history, "fault_healed")
    assert healed["left_stopped"] is True


def test_at_the_end_what_has_not_taken_yet_gets_its_verdict_and_stays_as_it_is(tmp_path: Path) -> None:
    history = HistoryWriter(tmp_path / "nodes" / "processes" / "history.jsonl", "processes")
    idle = Service("pi-1", "agent", ["true"], tmp_path / "log")
    executor = FaultExecutor({"pi-1": idle}, history)
    executor.perform([Apply(fault("stop"), lateness_s=0.0), Heal(fault("stop"))], 1.0)
    executor.close([], 1.5)
    assert not verified(tmp_path, history)
    assert len(told(tmp_path, history, "fault_healed")) == 1
    assert not idle.running
