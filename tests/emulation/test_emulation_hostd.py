"""hostd from end to end on real containers: shaped, measured, gated, one killed and healed, everything taken back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from compose.services import HOSTD_CAPABILITIES
from emulation.token import boot_token
from history.writer import HistoryWriter
from topology.plan import (
    CompressionPlan,
    DataPlan,
    DevicePlan,
    FaultPlan,
    Link,
    NetworkPlan,
    PartitionPlan,
    Plan,
    PolicyPlan,
    Shape,
    TrainingPlan,
    Trigger,
    dump_plan,
)

pytestmark = pytest.mark.containers
IMAGES = ("edgerig-hostd", "edgerig-broker", "edgerig-agent", "edgerig-coordinator")
REPO = Path(__file__).parents[2]
RUN = f"hostdtest{os.getpid()}"
SUBNET = "10.213.77"
WAIT_S = 60.0


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout.strip()


def some_image() -> str:
    for image in IMAGES:
        if (
            subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode
            == 0
        ):
            return image
    pytest.skip("none of the project's images is built (run `make setup`)")


def make_plan() -> Plan:
    def device(index: int, cpus: float, link: Link) -> DevicePlan:
        return DevicePlan(
            name=f"d{index}",
            group="d",
            index=index,
            profile="test",
            cpus=cpus,
            memory_bytes=64 << 20,
            link=link,
            address=f"{SUBNET}.{10 + index}",
        )

    slow = Link(
        name="slow",
        up=Shape(rate_bit_s=1_000_000, delay_s=0.05, loss=0.02),
        down=Shape(rate_bit_s=3_000_000, delay_s=0.05),
    )
    fast = Link(
        name="fast", up=Shape(rate_bit_s=15_000_000, delay_s=0.002), down=Shape(rate_bit_s=30_000_000)
    )
    return Plan(
        run=RUN,
        name="hostd-test",
        seed=7,
        runtime="docker",
        topology_sha256="0" * 64,
        devices=(device(0, 0.15, slow), device(1, 0.3, fast)),
        data=DataPlan(dataset="mnist", partition=PartitionPlan(), samples_per_device=10),
        model="mlp",
        training=TrainingPlan(rounds=1),
        policy=PolicyPlan(cohort=2),
        compression=CompressionPlan(),
        faults=(
            FaultPlan(
                id="kill-1",
                kind="kill",
                trigger=Trigger(round=1, state="training"),
                targets=("d1",),
                heal_after_s=1.0,
            ),
        ),
        network=NetworkPlan(broker_address=f"{SUBNET}.2", subnet=f"{SUBNET}.0/24"),
        start_timeout_s=30.0,
    )


@contextmanager
def containers(plan: Plan, image: str) -> Iterator[None]:
    network, label = f"{RUN}-data", f"io.edgerig.run={RUN}"
    docker("network", "create", "--label", label, "--subnet", f"{SUBNET}.0/24", network)
    try:
        nodes = [("broker", "broker", f"{SUBNET}.2", [])]
        for device in plan.devices:
            limits = [f"--cpus={device.cpus}", f"--memory={device.memory_bytes}"]
            nodes.append((device.name, "agent", device.address, limits))
        for name, role, address, limits in nodes:
            labels = [
                "--label",
                label,
                "--label",
                f"io.edgerig.node={name}",
                "--label",
                f"io.edgerig.role={role}",
            ]
            where = ["--network", network, "--ip", address, "--init", "--entrypoint", "sleep"]
            docker("run", "-d", "--name", f"{RUN}-{name}", *labels, *where, *limits, image, "600")
        yield
    finally:
        ids = docker("ps", "-aq", "--filter", f"label={label}").split()
        if ids:
            docker("rm", "-f", *ids)
        docker("network", "rm", network)


def events(path: Path) -> list[dict[str, Any]]:
    return (
        [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.exists() else []
    )


def await_event(
    path: Path, wanted: Callable[[dict[str, Any]], bool], process: subprocess.Popen[str]
) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for event in events(path):
            if wanted(event):
                return event
        assert process.poll() is None, f"hostd ended: {process.communicate()}"
        time.sleep(0.1)
    raise AssertionError(f"not within {WAIT_S:.0f} s; there are {[e['event'] for e in events(path)]}")


def pid_of(node: str) -> int:
    return int(docker("inspect", "-f", "{{.State.Pid}}", f"{RUN}-{node}"))


def host_qdiscs(interface: str) -> str:
    return subprocess.run(["tc", "qdisc", "show", "dev", interface], capture_output=True, text=True).stdout


def start_hostd(how: str, root: Path) -> subprocess.Popen[str]:
    """On the host as root, or in its own image with the rights that compose gives it and this source tree."""
    if how == "host":
        command = [sys.executable, "-m", "emulation", "--root", str(root)]
    else:
        command = ["docker", "run", "--rm", "--name", f"{RUN}-hostd", "--label", f"io.edgerig.run={RUN}"]
        command += ["--label", "io.edgerig.node=hostd", "--label", "io.edgerig.role=hostd"]
        command += [
            "--pid=host",
            "--network=host",
            "--cgroupns=host",
            "--init",
            "--read-only",
            "--tmpfs=/tmp",
        ]
        command += ["--cap-drop=ALL", *(f"--cap-add={name}" for name in HOSTD_CAPABILITIES)]
        command += [
            "--security-opt=no-new-privileges:true",
            "--security-opt=apparmor:unconfined",
            "--user=0:0",
        ]
        mounts = ["/var/run/docker.sock", "/sys/fs/cgroup"]
        command += [f"--volume={path}:{path}" for path in mounts] + [f"--volume={root}:/run/edgerig"]
        command += [
            f"--volume={REPO / name}:/opt/edgerig/{name}:ro" for name in ("emulation", "history", "topology")
        ]
        command += ["edgerig-hostd", "--root", "/run/edgerig"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("how", ["host", "image"])
def test_hostd_shapes_gates_kills_heals_and_clears(tmp_path: Path, how: str) -> None:
    plan = make_plan()
    (tmp_path / "plan.json").write_bytes(dump_plan(plan))
    own = tmp_path / "nodes" / "hostd" / "history.jsonl"
    with containers(plan, some_image()):
        process = start_hostd(how, tmp_path)
        try:
            await_event(own, lambda e: e["event"] == "ready", process)
            for node in ("broker", "d0", "d1"):
                assert (tmp_path / "gate" / node).read_text() == boot_token(pid_of(node))
            verified = {e["device"]: e for e in events(own) if e["event"] == "link_verified"}
            assert {name: e["ok"] for name, e in verified.items()} == {"d0": True, "d1": True}, verified
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
            assert [e["ok"] for e in boots] == [True, True], boots[-1]

            coordinator.append("run_finished", reason="rounds", version=1, accuracy=0.9, durable=True)
            for device in plan.devices:
                docker("kill", f"{RUN}-{device.name}")
            assert process.wait(30) == 0, process.communicate()
            last = events(own)[-1]
            assert (last["event"], last["reason"]) == ("healed_all", "run finished")
            assert not [veth for veth in ours if "tbf" in host_qdiscs(veth)]
            assert {e["what"] for e in events(own) if e["event"] == "lapse"} <= {"cpu_out_of_tolerance"}
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(10)
