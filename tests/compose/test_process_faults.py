"""Faults of the process runtime on real processes: they take, they are verified, they heal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from compose.process_faults import FaultExecutor, _state
from compose.process_service import Service
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
    history = HistoryWriter(tmp_path / "nodes" / "processes" / "history.jsonl", "processes")
    executor = FaultExecutor({"pi-1": device}, history)
    executor.perform([Apply(fault(kind), lateness_s=0.25)])
    return executor, history


def verified(tmp_path: Path, history: HistoryWriter) -> bool:
    history.sync()
    events = [e for e in read_history(tmp_path).events if e.event == "fault_verified"]
    return events[-1]["ok"] is True


@pytest.mark.parametrize("kind", ["kill", "stop"])
def test_a_dead_process_is_started_again(tmp_path: Path, device: Service, kind: str) -> None:
    executor, history = executed(tmp_path, device, kind)
    before = device.pid
    assert verified(tmp_path, history)
    assert not device.running
    executor.perform([Heal(fault(kind))])
    assert device.running
    assert device.pid != before


def test_a_paused_process_goes_on(tmp_path: Path, device: Service) -> None:
    executor, history = executed(tmp_path, device, "pause")
    assert verified(tmp_path, history)
    assert _state(device.pid) == "T"
    executor.perform([Heal(fault("pause"))])
    assert _state(device.pid) in ("S", "R")


def test_a_fault_without_effect_is_not_verified(tmp_path: Path) -> None:
    history = HistoryWriter(tmp_path / "nodes" / "processes" / "history.jsonl", "processes")
    idle = Service("pi-1", "agent", ["true"], tmp_path / "log")  # never started: nothing can happen to it
    FaultExecutor({"pi-1": idle}, history).perform([Apply(fault("kill"), lateness_s=0.0)])
    assert not verified(tmp_path, history)


def test_at_the_end_the_dead_stay_dead(tmp_path: Path, device: Service) -> None:
    executor, _ = executed(tmp_path, device, "kill")
    executor.perform([Heal(fault("kill"), final=True)], restart=False)
    assert not device.running
