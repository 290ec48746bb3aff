"""hostd from end to end on real containers: shaped, measured, gated, one killed and healed, everything taken back."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hostd_rig import (
    RUN,
    await_event,
    containers,
    docker,
    events,
    host_qdiscs,
    in_namespace,
    make_plan,
    pid_of,
    some_image,
    start_hostd,
)

from emulation.cgroup import Cgroup
from emulation.token import boot_token
from history.writer import HistoryWriter
from topology.plan import FaultParams, FaultPlan, Shape, Trigger, dump_plan

pytestmark = pytest.mark.containers


def swamped(verified: dict[str, Any]) -> bool:
    """Whether other work had the host's cores while links were measured: then their figures are not ours to judge."""
    return float(verified["host_busy_cores"]) > (os.cpu_count() or 1) - 0.5


@pytest.mark.parametrize("how", ["host", "image"])
def test_hostd_shapes_gates_kills_heals_and_clears(tmp_path: Path, how: str) -> None:
    kill = FaultPlan(
        id="kill-1",
        kind="kill",
        trigger=Trigger(round=1, state="training"),
        targets=("d1",),
        heal_after_s=1.0,
    )
    plan = make_plan(kill)
    (tmp_path / "plan.json").write_bytes(dump_plan(plan))
    own = tmp_path / "nodes" / "hostd" / "history.jsonl"
    with containers(plan, some_image()):
        process = start_hostd(how, tmp_path)
        try:
            await_event(own, lambda e: e["event"] == "ready", process)
            for node in ("broker", "d0", "d1"):
                assert (tmp_path / "gate" / node).read_text() == boot_token(pid_of(node))
            verified = {e["device"]: e for e in events(own) if e["event"] == "link_verified"}
            assert sorted(verified) == ["d0", "d1"]
            assert all(e["ok"] or swamped(e) for e in verified.values()), verified
            cpu = {e["device"]: e for e in events(own) if e["event"] == "cpu_verified"}
            for device in plan.devices:
                share = cpu[device.name]
                assert share["readback"] == pytest.approx(device.cpus)
                assert share["effective"] <= device.cpus * 1.1
                assert share["ok"] or share["others_cores"] > 0.5, (
                    share
                )  # other work on the host: not ours to judge
            ours = [
                e["host_interface"]
                for e in events(tmp_path / "nodes" / "hostd" / "undo.jsonl")
                if e["op"] == "begin"
            ]
            assert [host_qdiscs(veth).count("tbf") for veth in ours] == [1, 1]
            varied = await_event(
                own, lambda e: e["event"] == "link_varied" and e["up"]["delay_s"] == 0.06, process
            )
            assert (varied["device"], varied["up"]["rate_bit_s"]) == ("d0", 800_000)
            assert 1.0 <= varied["at_s"] < 2.0
            assert "rate 800Kbit" in in_namespace("d0", "tc", "qdisc", "show", "dev", "eth0")
            first = (tmp_path / "gate" / "d1").read_text()

            coordinator = HistoryWriter(tmp_path / "nodes" / "coordinator" / "history.jsonl", "coordinator")
            coordinator.append(
                "round_opened", round=1, version=0, cohort=["d0", "d1"], deadline_s=30, quorum=2
            )
            coordinator.append(
                "task_opened", task="t1", agent="d1", round=1, version=0, deadline_s=30, durable=True
            )
            coordinator.append("task_progress", task="t1", agent="d1", phase="training", durable=True)
            applied = await_event(own, lambda e: e["event"] == "fault_applied", process)
            assert applied["lateness_s"] < 1.0
            assert await_event(own, lambda e: e["event"] == "fault_verified", process)["ok"]
            again = await_event(
                own,
                lambda e: e["event"] == "gate_opened" and e.get("token") != first and e["node"] == "d1",
                process,
            )
            assert again["token"] == boot_token(pid_of("d1")) == (tmp_path / "gate" / "d1").read_text()
            boots = [e for e in events(own) if e["event"] == "link_verified" and e["device"] == "d1"]
            assert len(boots) == 2
            assert all(e["ok"] or swamped(e) for e in boots), boots[-1]

            coordinator.append("run_finished", reason="rounds", version=1, accuracy=0.9, durable=True)
            for device in plan.devices:
                docker("kill", f"{RUN}-{device.name}")
            assert process.wait(30) == 0, process.communicate()
            last = events(own)[-1]
            assert (last["event"], last["reason"]) == ("healed_all", "run finished")
            assert not [veth for veth in ours if "tbf" in host_qdiscs(veth)]
            assert {e["what"] for e in events(own) if e["event"] == "lapse"} <= {
                "cpu_out_of_tolerance",
                "link_out_of_tolerance",
            }
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(10)


def at(fault_id: str, kind: str, at_s: float, target: str, heal: float | None, **params: Any) -> FaultPlan:
    return FaultPlan(
        id=fault_id,
        kind=kind,
        trigger=Trigger(at_s=at_s),
        targets=(target,),
        heal_after_s=heal,
        params=FaultParams(**params),
    )


FAULTS = (
    at("pause", "pause", 0.0, "d0", 1.5),
    at("slow", "cpu_slowdown", 0.5, "d1", 4.0, cpus_factor=0.5),
    at("cut", "partition", 3.0, "d0", 2.0),
    at("deaf", "partition", 7.0, "d1", 1.5, direction="down"),
    at("tunnel", "link_change", 10.0, "d1", 2.0, up=Shape(rate_bit_s=500_000, delay_s=0.1)),
    at("flap", "flap", 13.5, "d0", 3.0, period_s=1.0),
    at("restart", "restart", 17.5, "d1", None),
    at("stop", "stop", 18.0, "d0", 2.0),
    at("broker", "kill", 26.0, "broker", 1.0),
    at("last", "pause", 34.0, "d1", None),  # healed by the final heal alone
)


def test_every_fault_is_applied_verified_and_healed(tmp_path: Path) -> None:
    plan = make_plan(*FAULTS)
    (tmp_path / "plan.json").write_bytes(dump_plan(plan))
    own = tmp_path / "nodes" / "hostd" / "history.jsonl"
    with containers(plan, some_image()):
        process = start_hostd("host", tmp_path)
        try:
            await_event(own, lambda e: e["event"] == "ready", process)
            coordinator = HistoryWriter(tmp_path / "nodes" / "coordinator" / "history.jsonl", "coordinator")
            coordinator.append(
                "round_opened", round=1, version=0, cohort=["d0"], deadline_s=99, quorum=1, durable=True
            )
            await_event(own, lambda e: e["event"] == "fault_applied" and e["fault"] == "slow", process)
            assert Cgroup.of_pid(pid_of("d1")).quota()[0] == pytest.approx(0.15)
            await_event(own, lambda e: e["event"] == "fault_verified" and e["fault"] == "last", process)
            await_event(
                own,
                lambda e: (
                    e["event"] == "gate_opened"
                    and e["node"] == "broker"
                    and e["token"] == boot_token(pid_of("broker"))
                ),
                process,
            )
            assert docker("inspect", "-f", "{{.State.Status}}", f"{RUN}-d1") == "paused"
            coordinator.append("run_finished", reason="rounds", version=1, accuracy=0.9, durable=True)
            docker("kill", f"{RUN}-d0")
            process.wait(40)
            found = events(own)
            verified = {e["fault"]: (e["ok"], e["detail"]) for e in found if e["event"] == "fault_verified"}
            assert {name for name, (ok, _) in verified.items() if ok} == {fault.id for fault in FAULTS}, (
                verified
            )
            healed = [e["fault"] for e in found if e["event"] == "fault_healed"]
            assert sorted(healed) == sorted(fault.id for fault in FAULTS)
            assert docker("inspect", "-f", "{{.State.Status}}", f"{RUN}-d1") == "running"
            assert Cgroup.of_pid(pid_of("d1")).quota()[0] == pytest.approx(0.3)
            lapses = {e["what"] for e in found if e["event"] == "lapse"}
            assert lapses <= {"cpu_out_of_tolerance", "link_out_of_tolerance"}, lapses
            assert process.returncode == 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(10)


def test_a_killed_hostd_is_followed_by_one_that_takes_over_and_heals(tmp_path: Path) -> None:
    plan = make_plan(at("pause", "pause", 0.0, "d0", None))
    (tmp_path / "plan.json").write_bytes(dump_plan(plan))
    own = tmp_path / "nodes" / "hostd" / "history.jsonl"
    with containers(plan, some_image()):
        process = start_hostd("host", tmp_path)
        try:
            await_event(own, lambda e: e["event"] == "ready", process)
            coordinator = HistoryWriter(tmp_path / "nodes" / "coordinator" / "history.jsonl", "coordinator")
            coordinator.append(
                "round_opened", round=1, version=0, cohort=["d0"], deadline_s=99, quorum=1, durable=True
            )
            await_event(own, lambda e: e["event"] == "fault_verified", process)
            process.kill()
            process.wait(10)
            assert docker("inspect", "-f", "{{.State.Status}}", f"{RUN}-d0") == "paused"
            process = start_hostd("host", tmp_path)
            await_event(own, lambda e: e["event"] == "fault_healed", process)
            await_event(own, lambda e: e["event"] == "lapse" and e["what"] == "hostd_absent", process)
            deadline = time.monotonic() + 30
            while [e["event"] for e in events(own)].count(
                "link_verified"
            ) < 4 and time.monotonic() < deadline:
                time.sleep(0.2)
            assert docker("inspect", "-f", "{{.State.Status}}", f"{RUN}-d0") == "running"
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            found = events(own)
            assert found[-1]["event"] == "healed_all"
            assert [e["fault"] for e in found if e["event"] == "fault_applied"] == ["pause"]
            veths = {
                e["host_interface"] for e in events(own.parent / "undo.jsonl") if e.get("kind") == "link"
            }
            assert not [veth for veth in veths if "tbf" in host_qdiscs(veth)]
            assert str(os.getpid()) in RUN
            left = subprocess.run(
                ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
            )
            assert left.stdout == ""
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(10)
