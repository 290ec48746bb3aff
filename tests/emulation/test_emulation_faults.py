"""Faults and their runner on fake machines and links: what is applied, verified, healed, recorded, left to undo."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from emulation.docker_host import Container
from emulation.faults import REGISTRY
from emulation.faults.base import FaultProblem, Tools
from emulation.faults.core import Apply, Heal
from emulation.faults.flap import Flap
from emulation.faults.runner import VERIFY_WAIT_S, FaultRunner
from emulation.links.base import Direction
from emulation.undo import UndoFile
from history.events import Event
from history.writer import HistoryWriter
from topology.plan import DevicePlan, FaultParams, FaultPlan, Link, Shape, Trigger
from topology.plan.faults import BEHAVIOURS

LINK = Link(name="x", up=Shape(rate_bit_s=1_000_000), down=Shape())


def container(node: str) -> Container:
    return Container(f"id-{node}", node, "agent", "running", 100, "t0", 0, 200_000_000, 1 << 26)


@dataclass
class FakeMachines:
    """Does what Docker does; with `broken` it does nothing and says nothing, like a silent no-op."""

    broken: bool = False
    nodes: dict[str, Container] = field(
        default_factory=lambda: {n: container(n) for n in ("a", "b", "broker")}
    )
    starts: int = 0
    inside: dict[str, list[str]] = field(default_factory=dict)

    def containers(self) -> dict[str, Container]:
        return dict(self.nodes)

    def _set(self, one: Container, **changes: Any) -> None:
        if not self.broken:
            self.nodes[one.node] = replace(one, **changes)

    def kill(self, one: Container, signal: str = "KILL") -> None:
        self._set(one, status="exited", pid=0, exit_code=137)

    def stop(self, one: Container) -> None:
        self._set(one, status="exited", pid=0, exit_code=143)

    def start(self, one: Container) -> None:
        self.starts += 1
        self._set(one, status="running", pid=101, exit_code=0, started_at=f"t{self.starts}")

    def restart(self, one: Container) -> None:
        self.start(one)

    def pause(self, one: Container) -> None:
        self._set(one, status="paused")

    def unpause(self, one: Container) -> None:
        self._set(one, status="running")

    def set_quota(self, one: Container, cores: float, period_us: int) -> None:
        self._set(one, nano_cpus=round(cores * 1e9))

    def exhaust_memory(self, one: Container) -> None:
        self._set(one, status="exited", pid=0, exit_code=137, oom_killed=True)

    def release_memory(self, one: Container) -> None: ...

    def run_inside(self, one: Container, program: str, arguments: list[str]) -> None:
        compile(program, "intruder", "exec")
        if not self.broken:
            self.inside[one.node] = arguments

    def stop_inside(self, one: Container) -> None:
        self.inside.pop(one.node, None)


@dataclass
class FakeLinks:
    broken: bool = False
    mends: bool = True
    links: dict[str, Link] = field(default_factory=lambda: {"a": LINK, "b": LINK})
    cuts: dict[str, tuple[Direction, ...]] = field(default_factory=dict)

    @property
    def in_force(self) -> list[str]:
        return list(self.links)

    def planned(self, device: str) -> Link:
        return LINK

    def link(self, device: str) -> Link:
        return self.links[device]

    def change(self, device: str, link: Link) -> list[str]:
        if self.broken:
            return ["up: no tbf"]
        self.links[device] = link
        return []

    def cut(self, device: str, ways: tuple[Direction, ...]) -> None:
        if not self.broken:
            self.cuts[device] = ways

    def mend(self, device: str) -> None:
        if self.mends:
            self.cuts.pop(device, None)

    def passes(self, device: str, way: Direction) -> bool:
        return way not in self.cuts.get(device, ())


@dataclass
class FakeBehaviours:
    """Agents that do as they are told, and say so; an intruder puts a device out."""

    machines: FakeMachines
    broken: bool = False
    told: dict[str, dict[str, str]] = field(default_factory=dict)

    def tell(self, device: str, fault: str, kind: str, params: FaultParams) -> None:
        if not self.broken:
            self.told.setdefault(device, {})[fault] = kind

    def untell(self, device: str, fault: str) -> None:
        self.told.get(device, {}).pop(fault, None)

    def says(self, device: str, event: str) -> list[Event]:
        fields: dict[str, object] = {"active": sorted(self.told.get(device, {}))}
        if event == "disconnected":
            if device not in self.machines.inside:
                return []
            fields = {"reason": "Session taken over"}
        return [Event(node=device, boot="b", seq=0, mono_s=0.0, wall_s=0.0, event=event, fields=fields)]


@dataclass
class Bench:
    runner: FaultRunner
    machines: FakeMachines
    links: FakeLinks
    behaviours: FakeBehaviours
    times: list[float]
    killed: list[str]
    undo: UndoFile
    history: HistoryWriter

    def pass_time(self, seconds: float) -> None:
        """Turns of hostd's loop, for so long."""
        until = self.times[0] + seconds
        while self.times[0] < until:
            self.times[0] += 0.25
            self.runner.tick()

    def events(self) -> list[dict[str, Any]]:
        self.history.sync()
        lines = [line for line in self.history.path.read_text().splitlines() if line]
        return [{**(record := json.loads(line)), **record["fields"]} for line in lines]

    def last(self, name: str) -> dict[str, Any]:
        return next(e for e in reversed(self.events()) if e["event"] == name)


def make_bench(tmp_path: Path, *, broken: bool = False) -> Bench:
    devices = tuple(
        DevicePlan(name=n, group="g", index=i, profile="p", cpus=0.2, memory_bytes=1 << 26, link=LINK)
        for i, n in enumerate(("a", "b"))
    )
    machines, links = FakeMachines(broken), FakeLinks(broken)
    undo, history = UndoFile(tmp_path / "undo.jsonl"), HistoryWriter(tmp_path / "history.jsonl", "hostd")
    behaviours, times, killed = FakeBehaviours(machines, broken), [0.0], list[str]()
    runner = FaultRunner(
        REGISTRY,
        devices,
        machines,
        links,
        behaviours,
        history,
        undo,
        end_self=lambda: killed.append("hostd"),
        mono=lambda: times[0],
    )
    return Bench(runner, machines, links, behaviours, times, killed, undo, history)


def fault(kind: str, *targets: str, **params: Any) -> FaultPlan:
    return FaultPlan(
        id=f"{kind}-1",
        kind=kind,
        trigger=Trigger(at_s=0.0),
        targets=targets or ("a",),
        params=FaultParams(**params),
    )


CASES = [
    fault("kill", "a", "b"),
    fault("kill", "broker"),
    fault("stop"),
    fault("pause"),
    fault("cpu_slowdown", cpus_factor=0.5),
    fault("link_change", up=Shape(delay_s=0.5)),
    fault("link_change", links={"a": Link(name="3g", up=Shape(delay_s=0.1), down=Shape())}),
    fault("packet_corruption", up=Shape(corrupt=0.02)),
    fault("partition"),
    fault("partition", direction="up"),
    fault("flap"),
    fault("out_of_memory"),
    fault("client_takeover"),
    *(fault(kind) for kind in BEHAVIOURS),
]


@pytest.mark.parametrize("plan", CASES, ids=lambda plan: f"{plan.kind}-{'-'.join(plan.targets)}")
def test_applied_verified_healed_and_nothing_left(tmp_path: Path, plan: FaultPlan) -> None:
    bench = make_bench(tmp_path)
    before = (dict(bench.machines.nodes), dict(bench.links.links))
    bench.runner.apply(Apply(plan, 0.25, 3))
    applied, verified = bench.last("fault_applied"), bench.last("fault_verified")
    assert (applied["lateness_s"], applied["round"]) == (0.25, 3)
    assert verified["ok"], verified
    assert [entry["fault"] for entry in bench.undo.open_entries.values()] == [plan.id]
    elsewhere = (bench.links.cuts, bench.machines.inside, bench.behaviours.told)
    assert (bench.machines.nodes, bench.links.links, *elsewhere) != (*before, {}, {}, {})
    bench.runner.heal(Heal(plan))
    assert bench.last("fault_healed")["left_stopped"] is False
    states = {n: (c.status, c.nano_cpus) for n, c in bench.machines.nodes.items()}
    assert states == dict.fromkeys(("a", "b", "broker"), ("running", 200000000))
    assert (bench.links.links, bench.links.cuts, bench.machines.inside) == (before[1], {}, {})
    assert not any(bench.behaviours.told.values())
    assert bench.undo.open_entries == {}
    assert not [e for e in bench.events() if e["event"] == "lapse"]


@pytest.mark.parametrize("plan", CASES, ids=lambda plan: f"{plan.kind}-{'-'.join(plan.targets)}")
def test_a_fault_that_does_not_take_is_a_lapse(tmp_path: Path, plan: FaultPlan) -> None:
    bench = make_bench(tmp_path, broken=True)
    bench.runner.apply(Apply(plan, 0.0))
    bench.pass_time(REGISTRY[plan.kind].verify_wait_s or VERIFY_WAIT_S)
    assert bench.last("fault_verified")["ok"] is False
    assert bench.last("lapse")["what"] == "fault_not_taken"


def test_restart_is_over_at_once_and_the_final_heal_leaves_it_alone(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    plan = fault("restart")
    bench.runner.apply(Apply(plan, 0.0))
    assert bench.last("fault_verified")["ok"]
    assert bench.undo.open_entries == {}
    bench.runner.heal(Heal(plan, final=True))
    assert [e["event"] for e in bench.events()].count("fault_healed") == 1


def test_when_the_run_is_over_a_killed_container_stays_stopped_and_a_paused_one_does_not(
    tmp_path: Path,
) -> None:
    bench = make_bench(tmp_path)
    kill, pause = fault("kill", "a"), fault("pause", "b")
    for plan in (kill, pause):
        bench.runner.apply(Apply(plan, 0.0))
    for plan in (kill, pause):
        bench.runner.heal(Heal(plan, final=True), run_over=True)
    assert bench.machines.nodes["a"].status == "exited"
    assert bench.machines.nodes["b"].status == "running"
    assert [e["left_stopped"] for e in bench.events() if e["event"] == "fault_healed"] == [True, False]
    assert bench.undo.open_entries == {}


def test_unknown_targets_and_faults_without_their_parameters_are_said(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.runner.apply(Apply(fault("kill", "nobody"), 0.0))
    assert "nobody" in bench.last("fault_verified")["detail"]
    bench.runner.heal(Heal(fault("kill", "nobody")))
    bench.runner.apply(Apply(fault("link_change"), 0.0))
    assert "neither up nor down" in bench.last("fault_verified")["detail"]
    bench.runner.apply(Apply(fault("cpu_slowdown", "broker"), 0.0))
    assert "only devices" in bench.last("fault_verified")["detail"]


def test_an_adopted_fault_is_healed_and_its_entry_closed(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    plan = fault("pause")
    number = bench.undo.begin("fault", {"fault": plan.id})
    bench.machines.pause(bench.machines.nodes["a"])
    bench.runner.adopt(number, plan)
    bench.runner.heal(Heal(plan, final=True))
    assert bench.machines.nodes["a"].status == "running"
    assert bench.undo.open_entries == {}


def test_flap_cuts_and_mends_by_halves_of_its_period() -> None:
    links, flap = FakeLinks(), Flap()
    machines = FakeMachines()
    tools = Tools(machines, links, FaultParams(period_s=2.0, direction="down"), {}, FakeBehaviours(machines))
    flap.apply(tools, "a")
    seen = []
    for tenth in range(0, 40, 5):
        flap.tick(tools, "a", tenth / 10)
        seen.append("a" in links.cuts)
    assert seen == [True, True, False, False, True, True, False, False]
    assert links.cuts == {}
    flap.heal(tools, "a")


def test_restart_of_what_does_not_run_is_refused() -> None:
    machines = FakeMachines()
    machines.kill(machines.nodes["a"])
    tools = Tools(machines, FakeLinks(), FaultParams(), {}, FakeBehaviours(machines))
    with pytest.raises(FaultProblem, match="does not run"):
        REGISTRY["restart"].apply(tools, "a")


def test_a_slow_fault_does_not_hold_up_the_next_one(tmp_path: Path) -> None:
    """What has not taken yet is looked at again later; nothing waits for it."""
    bench = make_bench(tmp_path, broken=True)
    bench.runner.apply(Apply(fault("partition", "a"), 0.0))
    bench.runner.apply(Apply(fault("pause", "b"), 0.0))
    assert bench.times == [0.0]
    assert [e["fault"] for e in bench.events() if e["event"] == "fault_applied"] == ["partition-1", "pause-1"]
    bench.links.broken = False
    bench.links.cut("a", ("up", "down"))
    bench.pass_time(1.0)
    assert bench.last("fault_verified") | {"fault": "partition-1", "ok": True} == bench.last("fault_verified")


@pytest.mark.parametrize(
    ("first", "second"),
    [("pause", "kill"), ("partition", "flap"), ("kill", "cpu_slowdown"), ("stop", "poison")],
)
def test_what_contradicts_a_fault_in_force_is_refused_and_the_run_marked(
    tmp_path: Path, first: str, second: str
) -> None:
    bench = make_bench(tmp_path)
    bench.runner.apply(Apply(fault(first), 0.0))
    bench.runner.apply(Apply(fault(second), 0.0))
    assert [e["fault"] for e in bench.events() if e["event"] == "fault_applied"] == [f"{first}-1"]
    assert f"contradicts {first}-1" in bench.last("fault_verified")["detail"]
    assert bench.last("lapse")["what"] == "fault_not_taken"
    bench.runner.heal(Heal(fault(second)))
    bench.runner.heal(Heal(fault(first)))
    assert [e["fault"] for e in bench.events() if e["event"] == "fault_healed"] == [f"{first}-1"]


def test_hostd_is_killed_after_everything_is_on_disk_and_its_successor_says_that_it_took(
    tmp_path: Path,
) -> None:
    bench = make_bench(tmp_path)
    plan = fault("kill", "hostd")
    bench.runner.apply(Apply(plan, 0.0))
    assert bench.killed == ["hostd"]
    assert [entry["fault"] for entry in UndoFile(tmp_path / "undo.jsonl").open_entries.values()] == ["kill-1"]
    after = make_bench(tmp_path)
    ((number, _),) = after.undo.open_entries.items()
    after.runner.adopt(number, plan)
    assert after.last("fault_verified")["ok"]
    after.runner.heal(Heal(plan, final=True))
    assert after.undo.open_entries == {}


def test_a_device_that_vanishes_during_a_fault_marks_the_run_and_stops_nothing(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    slow = fault("pause", "a", "b")
    bench.runner.apply(Apply(slow, 0.0))
    del bench.machines.nodes["a"]
    bench.runner.heal(Heal(slow))
    assert "no container" in bench.last("lapse")["detail"]
    assert bench.machines.nodes["b"].status == "running"


@pytest.mark.parametrize(
    "kind", ["kill", "stop", "pause", "cpu_slowdown", "partition", "link_change", "out_of_memory"]
)
def test_a_heal_that_does_nothing_is_a_lapse_and_stays_in_the_undo_file(tmp_path: Path, kind: str) -> None:
    bench = make_bench(tmp_path)
    plan = fault(kind, up=Shape(delay_s=0.5)) if kind == "link_change" else fault(kind)
    bench.runner.apply(Apply(plan, 0.0))
    assert bench.last("fault_verified")["ok"]
    bench.machines.broken = bench.links.broken = True
    bench.links.mends = False
    bench.runner.heal(Heal(plan))
    assert bench.last("lapse")["what"] == "heal_failed"
    assert [entry["fault"] for entry in bench.undo.open_entries.values()] == [plan.id]
