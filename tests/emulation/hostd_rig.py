"""A run of hostd on real containers: a broker and two devices that only sleep, and a coordinator played by the test."""

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
    Step,
    Steps,
    TrainingPlan,
)

IMAGES = ("edgerig-hostd", "edgerig-broker", "edgerig-agent", "edgerig-coordinator")
REPO = Path(__file__).parents[2]
RUN = f"hostdtest{os.getpid()}"
SUBNET = "10.213.77"
WAIT_S = 60.0
# Of d0's uplink, once the run is ready.
VARIED = Steps(steps=(Step(at_s=0.5, rate_bit_s=800_000), Step(at_s=1.0, delay_s=0.06)))


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


def make_plan(*faults: FaultPlan) -> Plan:
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
        up=Shape(rate_bit_s=1_000_000, delay_s=0.05, loss=0.02, vary=(VARIED,)),
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
        faults=faults,
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
    """The lines of a history or undo file; a history's fields beside its envelope."""
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines if line.strip()]
    return [record | record.get("fields", {}) for record in records]


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


def in_namespace(node: str, *command: str) -> str:
    """What a command says in the node's network namespace."""
    argv = ["nsenter", "--net", "--target", str(pid_of(node)), *command]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


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
