"""Mutants of the emulation, for real in network namespaces, and the check that must catch each of them.

A delay on the wrong side has the right round trip; a link that somebody clears in mid-run was right when it was
measured; a heal that does nothing says that it is done. Each test also runs the honest version, which must pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hostd_rig import make_plan
from msgspec import structs
from rig import SUBNET, Rig, rig

from emulation.docker_host import Container
from emulation.faults import REGISTRY
from emulation.faults.base import Behaviours, Machines
from emulation.faults.core import Apply, Heal
from emulation.faults.runner import FaultRunner
from emulation.fleet import Node
from emulation.link_keeper import LinkKeeper
from emulation.links.nfqueue import NfqueueBackend
from emulation.links.tbf import clear_argv
from emulation.netns import Netns
from emulation.undo import UndoFile
from history import emulation
from history.checks import run_checks
from history.derive import derive
from history.reader import read_history
from history.record import Record
from history.writer import HistoryWriter
from topology.plan import DevicePlan, FaultPlan, Link, Plan, Shape, Tolerance, Trigger

pytestmark = pytest.mark.netns

EVEN = Link(
    name="even",
    up=Shape(rate_bit_s=2_000_000, delay_s=0.03),
    down=Shape(rate_bit_s=6_000_000, delay_s=0.03),
)


class Bench:
    """hostd's keeper of links over a rig: one device, its namespaces, a history that the checks read."""

    def __init__(self, network: Rig, root: Path, *, mends: bool = True) -> None:
        device = DevicePlan(
            name="d0",
            group="d",
            index=0,
            profile="test",
            cpus=0.2,
            memory_bytes=64 << 20,
            link=EVEN,
            address=f"{SUBNET}.10",
        )
        plan = make_plan()
        net = structs.replace(plan.network, broker_address=f"{SUBNET}.2", subnet=f"{SUBNET}.0/24")
        self.plan: Plan = structs.replace(
            # A quarter of the 30 ms that the mutant moves: other work on the machine makes packets some ms late.
            plan,
            devices=(device,),
            network=net,
            tolerance=Tolerance(delay_s=0.008),
        )
        self.root, self.network, self.device = root, network, device
        self.history = HistoryWriter(root / "nodes" / "hostd" / "history.jsonl", "hostd")
        self.undo = UndoFile(root / "nodes" / "hostd" / "undo.jsonl")
        self.backend = NfqueueBackend()
        keeper = LinkKeeper if mends else HealsNothing
        self.keeper = keeper(self.plan, self.backend, self.history, self.undo)
        self.keeper._host = network.host
        self.history.append("probed", kernel="", docker="", cgroup=1, backend="nfqueue", reason="", checks={})

    def up(self) -> None:
        self.backend.start()
        node, broker = self._node("d0", self.network.devices[0]), self._node("broker", self.network.broker)
        self.keeper.apply(self.device, node, broker)

    @staticmethod
    def _node(name: str, netns: Netns) -> Node:
        return cast(Node, SimpleNamespace(name=name, token=f"{name}-1", netns=lambda: netns))

    def record(self) -> Record:
        self.history.sync()
        return derive(read_history(self.root), self.plan)

    def problems(self) -> list[str]:
        """What `emulation_held` finds, but for the CPU, which this bench has none of."""
        return [text for text in emulation.problems(self.record()) if "CPU" not in text]

    def close(self) -> None:
        self.keeper.clear_all()
        self.backend.stop()


class HealsNothing(LinkKeeper):
    """The mutant: says that it has mended the link, and has not."""

    def mend(self, device: str) -> None:
        return


@pytest.fixture(scope="module")
def network() -> Iterator[Rig]:
    if not NfqueueBackend().probe().ok:
        pytest.skip("no nfqueue here")
    with rig(1) as made:
        yield made


def test_a_delay_on_the_wrong_side_is_caught_though_the_round_trip_is_right(
    network: Rig, tmp_path: Path
) -> None:
    bench = Bench(network, tmp_path)
    try:
        bench.up()
        bench.keeper.measure(["d0"], rates=False)
        assert bench.problems() == []
        lopsided = Link(
            name="mutant",
            up=Shape(rate_bit_s=EVEN.up.rate_bit_s, delay_s=0.06),
            down=Shape(rate_bit_s=EVEN.down.rate_bit_s),
        )
        bench.backend.apply(bench.keeper._ends["d0"], lopsided)
        bench.keeper.measure(["d0"], rates=False)
        problems = bench.problems()
        assert any("link up out of tolerance" in text for text in problems), problems
        assert any("link down out of tolerance" in text for text in problems)
        (held,) = run_checks(bench.record(), ["emulation_held"])
        assert held.outcome == "fail"
    finally:
        bench.close()


def test_a_link_cleared_behind_hostds_back_is_caught_and_put_back(network: Rig, tmp_path: Path) -> None:
    bench = Bench(network, tmp_path)
    try:
        bench.up()
        bench.keeper.measure(["d0"], rates=False)
        assert bench.keeper.check("d0")
        ends = bench.keeper._ends["d0"]
        ends.host.run(*clear_argv(ends.host_interface))
        assert not bench.keeper.check("d0")
        assert any("a link's rules were gone" in text for text in bench.problems())
        assert bench.keeper.check("d0")
        bench.keeper.clear_all()
        assert bench.keeper.left == []
    finally:
        bench.close()


def partition(bench: Bench) -> None:
    """A partition, struck and healed by hostd's own runner, looked at by packets in the namespaces."""
    runner = FaultRunner(
        REGISTRY,
        [bench.device],
        cast(Machines, NoMachines()),
        bench.keeper,
        cast(Behaviours, None),
        bench.history,
        bench.undo,
        end_self=lambda: None,
    )
    plan = FaultPlan(id="cut", kind="partition", trigger=Trigger(at_s=0.0), targets=("d0",), heal_after_s=1.0)
    runner.apply(Apply(plan, 0.0))
    runner.heal(Heal(plan))


class NoMachines:
    def containers(self) -> dict[str, Container]:
        return {}


@pytest.mark.parametrize(("mends", "outcome"), [(True, "pass"), (False, "fail")])
def test_a_heal_that_does_nothing_is_caught_by_packets_that_do_not_pass(
    network: Rig, tmp_path: Path, mends: bool, outcome: str
) -> None:
    bench = Bench(network, tmp_path, mends=mends)
    try:
        bench.up()
        partition(bench)
        bench.history.append("healed_all", reason="", left=[])
        found: dict[str, Any] = {e.event: e.fields for e in read_finished(bench)}
        assert found["fault_verified"]["ok"]
        record = bench.record()
        record.run_finished_at = record.ended_at
        (healed,) = run_checks(record, ["faults_healed"])
        assert healed.outcome == outcome, healed.detail
        kept = [entry for entry in bench.undo.open_entries.values() if entry["kind"] == "fault"]
        assert bool(kept) is not mends
    finally:
        LinkKeeper.mend(bench.keeper, "d0")
        bench.close()


def read_finished(bench: Bench) -> list[Any]:
    bench.history.sync()
    return read_history(bench.root).events
