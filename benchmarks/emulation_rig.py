"""Idle containers on a network of their own, for the benchmarks of the emulation: `fleet(devices)`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from emulation.links.base import LinkEnds
from emulation.netns import Netns, interface_by_index, interface_with
from emulation.token import boot_token
from topology.plan import Plan

IMAGE = "edgerig-hostd"  # any of the project's images will do: it only sleeps
SUBNET = "10.214.88"
RUN = f"bench{os.getpid()}"


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout.strip()


@dataclass(frozen=True)
class Member:
    name: str
    pid: int
    address: str


@dataclass(frozen=True)
class Fleet:
    broker: Member
    devices: tuple[Member, ...]

    def ends(self, index: int, seed: str = "7") -> LinkEnds:
        device, host = self.devices[index], Netns.own()
        device_ns, broker_ns = Netns.of_pid(device.pid), Netns.of_pid(self.broker.pid)
        mine = interface_with(device_ns, device.address)
        return LinkEnds(
            device=device.name,
            address=device.address,
            queue=index + 1,
            seed=seed,
            device_boot=boot_token(device.pid),
            broker_boot=boot_token(self.broker.pid),
            device_ns=device_ns,
            device_interface=mine.name,
            host=host,
            host_interface=interface_by_index(host, mine.peer_index),
            broker_ns=broker_ns,
            broker_interface=interface_with(broker_ns, self.broker.address).name,
            broker_address=self.broker.address,
        )


@contextmanager
def fleet(devices: int, cpus: Sequence[float] = ()) -> Iterator[Fleet]:
    """A broker and so many devices, `cpus` their quotas (none: unlimited). Everything is removed at the
    end.
    """
    label = f"io.edgerig.run={RUN}"
    docker("network", "create", "--label", label, "--subnet", f"{SUBNET}.0/24", RUN)
    try:
        members = []
        for index in range(devices + 1):
            name = "broker" if index == 0 else f"d{index - 1}"
            quota = [f"--cpus={cpus[index - 1]}"] if index and cpus else []
            where = ["--network", RUN, "--ip", f"{SUBNET}.{index + 2}", "--entrypoint", "sleep"]
            docker(
                "run",
                "-d",
                "--init",
                "--name",
                f"{RUN}-{name}",
                "--label",
                label,
                *where,
                *quota,
                IMAGE,
                "3600",
            )
            pid = int(docker("inspect", "-f", "{{.State.Pid}}", f"{RUN}-{name}"))
            members.append(Member(name, pid, f"{SUBNET}.{index + 2}"))
        yield Fleet(members[0], tuple(members[1:]))
    finally:
        ids = docker("ps", "-aq", "--filter", f"label={label}").split()
        if ids:
            docker("rm", "-f", *ids)
        docker("network", "rm", RUN)


@contextmanager
def planned_fleet(plan: Plan) -> Iterator[Fleet]:
    """Idle containers of a plan, labelled and limited as hostd wants them. Everything is removed at the end."""
    label = f"io.edgerig.run={plan.run}"
    network = plan.network
    docker("network", "create", "--label", label, "--subnet", network.subnet, plan.run)
    try:
        broker = _started(plan.run, "broker", "broker", network.broker_address, [])
        devices = [
            _started(
                plan.run,
                device.name,
                "agent",
                device.address,
                [f"--cpus={device.cpus}", f"--memory={device.memory_bytes}"],
            )
            for device in plan.devices
        ]
        yield Fleet(broker, tuple(devices))
    finally:
        ids = docker("ps", "-aq", "--filter", f"label={label}").split()
        if ids:
            docker("rm", "-f", *ids)
        docker("network", "rm", plan.run)


def _started(run: str, name: str, role: str, address: str, limits: list[str]) -> Member:
    labels = [
        f"--label=io.edgerig.{key}={value}" for key, value in (("run", run), ("node", name), ("role", role))
    ]
    where = ["--network", run, "--ip", address, "--init", "--entrypoint", "sleep"]
    docker("run", "-d", "--name", f"{run}-{name}", *labels, *limits, *where, IMAGE, "3600")
    return Member(name, int(docker("inspect", "-f", "{{.State.Pid}}", f"{run}-{name}")), address)
