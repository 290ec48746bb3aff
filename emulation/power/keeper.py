"""What the power core decides, done: containers stopped and started, links cut and mended, states told to devices."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from emulation.cgroup import Cgroup, CgroupError
from emulation.docker_host import Container, DockerProblem
from emulation.fleet import Node
from emulation.link_keeper import VANISHED
from emulation.links.base import DIRECTIONS, Direction
from emulation.paths import RunPaths, write_atomic
from emulation.power.core import Off, On, PowerCore, Reading
from history.events import Event
from history.reader import Tail
from history.writer import HistoryWriter
from topology.plan import Plan
from topology.plan.faults import HOSTD

TROUBLE = (DockerProblem, CgroupError, *VANISHED)
SAMPLE_S = 1.0  # a battery of a few hundred joules loses about a percent in this time


class Machines(Protocol):
    def stop(self, container: Container) -> None: ...

    def start(self, container: Container) -> None: ...


class Links(Protocol):
    def cut(self, device: str, ways: tuple[Direction, ...]) -> None: ...

    def mend(self, device: str) -> None: ...


class PowerKeeper:
    """Does nothing at all for a fleet on mains that is always there."""

    def __init__(
        self, plan: Plan, paths: RunPaths, machines: Machines, links: Links, history: HistoryWriter
    ) -> None:
        self._core = PowerCore(plan.devices, last_charges(Tail(paths.history, HOSTD)))
        self._paths, self._machines, self._links, self._history = paths, machines, links, history
        self._next_sample = 0.0
        self._told: dict[str, bytes] = {}

    @property
    def idle(self) -> bool:
        return not self._core.devices

    def handle(self, event: Event) -> None:
        self._core.handle(event)

    def turn(self, running: dict[str, Node], containers: dict[str, Container], now: float) -> None:
        """Once every few hundredths of a second; meters are read once a second."""
        if self.idle:
            return
        if now >= self._next_sample:
            self._next_sample = now + SAMPLE_S
            self._sample(running, now)
        for action in self._core.tick(now):
            self._perform(action, containers)

    def finish(self) -> None:
        for action in self._core.finish():
            self._perform(action, {})

    def _sample(self, running: dict[str, Node], now: float) -> None:
        for name in self._core.devices:
            node = running.get(name)
            if node is not None:
                try:
                    self._core.sample(name, read_meters(node.container.pid))
                except TROUBLE:
                    continue  # it ended meanwhile
            self._tell(name, now)

    def _tell(self, name: str, now: float) -> None:
        """Into the device's gate folder, for its agent's hello and progress; and into the history when it moved."""
        state = self._core.state(name, now)
        text = msgspec.json.encode(
            {
                "charge": None if state.charge is None else round(state.charge, 3),
                "plugged": state.plugged,
                "available": state.available,
            }
        )
        if self._told.get(name) == text:
            return
        self._told[name] = text
        write_atomic(self._paths.power(name), text.decode())
        charge_j = self._core.charge_j(name)
        self._history.append(
            "power_sample",
            device=name,
            charge=state.charge,
            charge_j=None if charge_j is None else round(charge_j, 3),
            plugged=state.plugged,
            available=state.available,
        )

    def _perform(self, action: Off | On, containers: dict[str, Container]) -> None:
        off = isinstance(action, Off)
        try:
            if action.effect == "disconnect":
                if off:
                    self._links.cut(action.device, DIRECTIONS)
                else:
                    self._links.mend(action.device)
            else:
                container = containers[action.device]
                (self._machines.stop if off else self._machines.start)(container)
            ok, detail = True, ""
        except (*TROUBLE, KeyError) as error:
            ok, detail = False, str(error)[:300]
        self._history.append(
            "power_off" if off else "power_on",
            device=action.device,
            effect=action.effect,
            reason=action.reason,
            ok=ok,
            detail=detail,
            durable=True,
        )


def read_meters(pid: int, proc: Path = Path("/proc")) -> Reading:
    """CPU seconds of the process's cgroup, and bytes of its namespace's interfaces but the loopback.

    Raises CgroupError, OSError.
    """
    cpu_s = Cgroup.of_pid(pid, proc=proc).usage_s()
    return Reading(cpu_s, interface_bytes((proc / str(pid) / "net" / "dev").read_text().splitlines()))


def interface_bytes(lines: Iterable[str]) -> float:
    """Received and sent bytes of /proc/net/dev (fields 1 and 9), loopback left out."""
    total = 0.0
    for line in lines:
        name, colon, counters = line.partition(":")
        words = counters.split()
        if colon and name.strip() != "lo" and len(words) >= 9:
            total += int(words[0]) + int(words[8])
    return total


def last_charges(own: Tail) -> dict[str, float]:
    """Charges as a hostd before this one has last recorded them."""
    charges: dict[str, float] = {}
    while events := own.poll():
        for event in events:
            charge_j = event.get("charge_j")
            if event.event == "power_sample" and isinstance(charge_j, int | float):
                charges[str(event.get("device"))] = float(charge_j)
    return charges
