"""hostd's loop without containers: what waits for what, and what its end does whatever fails."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from emulation.docker_host import Container, DockerHost
from emulation.faults.core import Heal
from emulation.fleet import Died, Node
from emulation.hostd import Hostd
from emulation.links.none import NoneBackend
from emulation.paths import RunPaths
from history.writer import HistoryWriter
from topology.compile import compile_topology
from topology.plan import FaultPlan, Trigger, dump_plan
from topology.validate import parse_topology

TEXT = """
name: x
devices:
  a: {profile: laptop, cpus: 0.1, link: ethernet, count: 2}
data: {dataset: mnist-mini}
model: mlp
training: {rounds: 1}
"""


class Backend(NoneBackend):
    def __init__(self) -> None:
        self.running, self.started, self.cleared, self.stopped = True, 0, list[str](), False

    def alive(self) -> bool:
        return self.running

    def start(self) -> str:
        self.started += 1
        return "nothing runs"

    def clear(self, ends: Any) -> None:
        self.cleared.append(ends.device)

    def stop(self) -> None:
        self.stopped = True


class Docker:
    def __init__(self) -> None:
        self.paused: set[str] = set()
        self.on_unpause: Callable[[str], None] = lambda node: None

    def containers(self) -> dict[str, Container]:
        return {name: self.container(name) for name in ("a-1", "a-2")}

    def container(self, name: str) -> Container:
        status = "paused" if name in self.paused else "running"
        return Container(name, name, "agent", status, os.getpid(), "", 0, 0, 0)

    def pause(self, container: Container) -> None:
        self.paused.add(container.node)

    def unpause(self, container: Container) -> None:
        self.on_unpause(container.node)
        self.paused.discard(container.node)


@pytest.fixture
def rig(tmp_path: Path) -> tuple[Hostd, Docker, Backend, HistoryWriter]:
    plan = compile_topology(parse_topology(TEXT).topology, "r")
    paths = RunPaths(tmp_path)
    paths.plan.write_bytes(dump_plan(plan))
    docker, backend, history = Docker(), Backend(), HistoryWriter(paths.history, "hostd")
    hostd = Hostd(plan, paths, cast(DockerHost, docker), backend, history, lambda: False)
    return hostd, docker, backend, history


def lapses(history: HistoryWriter) -> list[tuple[str, str]]:
    history.sync()
    lines = [json.loads(line) for line in history.path.read_text().splitlines()]
    return [(x["fields"]["what"], x["fields"]["detail"]) for x in lines if x["event"] == "lapse"]


def pause(hostd: Hostd, target: str) -> None:
    fault = FaultPlan(id=f"pause-{target}", kind="pause", trigger=Trigger(at_s=0.0), targets=(target,))
    hostd._runner.apply(hostd._faults.inject(fault, 0.0))


def shaped(hostd: Hostd, *devices: str, boot: str = "b1") -> None:
    for name in devices:
        ends = SimpleNamespace(device=name, device_boot=boot, broker_boot="broker-1")
        hostd._keeper._ends[name] = ends  # type: ignore[assignment]
    hostd._keeper._note_left = lambda device, ends: None  # type: ignore[method-assign]


def died(name: str, boot: str = "b1") -> Died:
    return Died(Node(name, "agent", Docker().container(name), boot), 137)


def test_a_disk_that_is_full_at_the_end_keeps_nothing_from_being_taken_back(
    rig: tuple[Hostd, Docker, Backend, HistoryWriter],
) -> None:
    hostd, docker, backend, history = rig
    pause(hostd, "a-1")
    pause(hostd, "a-2")
    shaped(hostd, "a-1", "a-2")
    assert docker.paused == {"a-1", "a-2"}
    history.sync()
    history._file = open("/dev/full", "ab", 0)  # type: ignore[assignment]  # noqa: SIM115
    hostd._undo._file = open("/dev/full", "ab")  # noqa: SIM115
    hostd._end("stopped")
    assert docker.paused == set()
    assert (sorted(backend.cleared), backend.stopped) == (["a-1", "a-2"], True)
    assert history.refused > 0, "and whoever started hostd is told"
    history.close()


def test_a_heal_that_breaks_is_on_record_and_the_next_one_is_done(
    rig: tuple[Hostd, Docker, Backend, HistoryWriter],
) -> None:
    hostd, docker, backend, history = rig
    pause(hostd, "a-1")
    pause(hostd, "a-2")
    heal = hostd._runner.heal

    def breaks_once(action: Heal, *, run_over: bool = False) -> None:
        if action.fault.targets == ("a-2",):
            raise RuntimeError("never thought of")
        heal(action, run_over=run_over)

    hostd._runner.heal = breaks_once  # type: ignore[method-assign]
    hostd._end("stopped")
    assert (docker.paused, backend.stopped) == ({"a-2"}, True)
    assert lapses(history) == [("heal_failed", "RuntimeError: never thought of")]


def test_a_history_that_must_not_lose_lines_raises_until_it_is_told_otherwise() -> None:
    history = HistoryWriter("/dev/full", "hostd")
    with pytest.raises(OSError, match="No space"):
        history.append("gate_opened", durable=True)
    history.let_lines_go()
    history.append("healed_all", durable=True)
    history.close()
    assert history.refused > 0


def test_a_death_while_somebody_is_brought_up_holds_nothing_up(
    rig: tuple[Hostd, Docker, Backend, HistoryWriter],
) -> None:
    hostd, _, backend, _ = rig
    shaped(hostd, "a-1", "a-2")
    hostd._job = bringing_up = Future()
    waited = threading.Thread(target=hostd._note, args=([died("a-1")],), daemon=True)
    waited.start()
    waited.join(5.0)
    assert not waited.is_alive(), "a fault that is due now would be late by a whole measurement"
    assert backend.cleared == [], "whoever measures still uses the links"
    bringing_up.set_result(None)
    hostd._start_pending()
    assert backend.cleared == ["a-1"]


def test_the_delay_process_is_started_again_when_nobody_measures(
    rig: tuple[Hostd, Docker, Backend, HistoryWriter],
) -> None:
    hostd, _, backend, _ = rig
    hostd._job, backend.running = Future(), False
    hostd._revive()
    assert backend.started == 0
    hostd._job = None
    hostd._revive()
    assert backend.started == 1


def test_a_late_burial_leaves_the_link_of_the_next_boot_alone(
    rig: tuple[Hostd, Docker, Backend, HistoryWriter],
) -> None:
    hostd, _, backend, _ = rig
    shaped(hostd, "a-1", boot="b2")
    hostd._note([died("a-1", boot="b1")])
    assert backend.cleared == []
    hostd._note([died("a-1", boot="b2")])
    assert backend.cleared == ["a-1"]
    shaped(hostd, "a-1", "a-2")
    hostd._keeper.died(Node("broker", "broker", Docker().container("broker"), "broker-0"))
    assert backend.cleared == ["a-1"]
    hostd._keeper.died(Node("broker", "broker", Docker().container("broker"), "broker-1"))
    assert backend.cleared == ["a-1", "a-1", "a-2"]
