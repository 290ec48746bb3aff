"""What a fault is: three functions on one target. When it fires is decided elsewhere (`emulation.faults.core`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from emulation.docker_host import Container
from emulation.links.base import Direction
from history.events import Event
from topology.plan import FaultParams, Link


class FaultProblem(RuntimeError):
    """The fault could not be applied, or its target is not what it needs; the run is marked."""


class Machines(Protocol):
    """What faults do to containers (`emulation.docker_host.DockerHost`, or a fake)."""

    def containers(self) -> dict[str, Container]: ...

    def kill(self, container: Container, signal: str = "KILL") -> None: ...

    def start(self, container: Container) -> None: ...

    def stop(self, container: Container) -> None: ...

    def restart(self, container: Container) -> None: ...

    def pause(self, container: Container) -> None: ...

    def unpause(self, container: Container) -> None: ...

    def set_quota(self, container: Container, cores: float, period_us: int) -> None: ...

    def exhaust_memory(self, container: Container) -> None:
        """Start taking the container's memory, until the kernel kills what runs in it."""
        ...

    def release_memory(self, container: Container) -> None: ...

    def run_inside(self, container: Container, program: str, arguments: list[str]) -> None:
        """Start a Python program with the container's own rights; it ends with the container or with `stop_inside`."""
        ...

    def stop_inside(self, container: Container) -> None: ...


class Links(Protocol):
    """What faults do to links (`emulation.link_keeper.LinkKeeper`, or a fake). `device` must be in force."""

    @property
    def in_force(self) -> list[str]: ...

    def planned(self, device: str) -> Link: ...

    def link(self, device: str) -> Link: ...

    def change(self, device: str, link: Link) -> list[str]:
        """Put another shape in force; what the read-back finds wrong."""
        ...

    def cut(self, device: str, ways: tuple[Direction, ...]) -> None:
        """Let nothing through in these directions; cutting twice is cutting once."""
        ...

    def mend(self, device: str) -> None:
        """Take every cut away; of what is whole nothing."""
        ...

    def passes(self, device: str, way: Direction) -> bool:
        """Whether a packet sent now arrives at the other end."""
        ...


class Behaviours(Protocol):
    """What devices are told to do wrong (`emulation.behaviours.HookFiles`, or a fake)."""

    def tell(self, device: str, fault: str, kind: str, params: FaultParams) -> None: ...

    def untell(self, device: str, fault: str) -> None: ...

    def says(self, device: str, event: str) -> list[Event]:
        """The device's own events of this name, the oldest first."""
        ...


@dataclass(frozen=True)
class Tools:
    """What a fault is given. `quotas` are (cores, period_us) of the devices as planned; `fault` is its id."""

    machines: Machines
    links: Links
    params: FaultParams
    quotas: dict[str, tuple[float, int]]
    behaviours: Behaviours
    fault: str = ""


@dataclass(frozen=True)
class Seen:
    """What verifying found: whether the fault has taken, and what was looked at."""

    ok: bool
    detail: str


class Fault(Protocol):
    """`apply` and `heal` act once; `heal` of what is healed already does nothing.

    They raise DockerProblem, FaultProblem, or what a namespace that goes away raises.
    """

    kind: str
    restarts: bool  # whether healing starts a container anew: not done once the run is over
    one_shot: bool  # whether the fault is over as soon as it is applied, and healing only notes it
    devices_only: bool  # whether a service (the broker) can be no target
    verify_wait_s: float  # how long it may take to be seen; 0 is the runner's own wait

    def apply(self, tools: Tools, target: str) -> None: ...

    def verify(self, tools: Tools, target: str) -> Seen: ...

    def heal(self, tools: Tools, target: str) -> None: ...

    def healed(self, tools: Tools, target: str) -> Seen:
        """Whether the heal has taken, looked at right after it; a heal that does nothing is the worst of faults."""
        ...

    def tick(self, tools: Tools, target: str, since_s: float) -> None:
        """Called every turn while the fault is in force, `since_s` after it was applied."""


class FaultBase:
    """What most faults are: they restart nobody, last until healed, and do nothing meanwhile."""

    kind = ""
    restarts = False
    one_shot = False
    devices_only = False
    verify_wait_s = 0.0

    def healed(self, tools: Tools, target: str) -> Seen:
        return Seen(True, "nothing to look at")

    def tick(self, tools: Tools, target: str, since_s: float) -> None:
        """Nothing happens between apply and heal."""


def runs_again(tools: Tools, target: str) -> Seen:
    container = find(tools, target)
    return Seen(container.running and container.status != "paused", container.status)


def find(tools: Tools, target: str) -> Container:
    """The target's container. Raises FaultProblem naming those that are there."""
    containers = tools.machines.containers()
    if target not in containers:
        raise FaultProblem(
            f"no container of this run is called {target!r}; there are {', '.join(sorted(containers))}"
        )
    return containers[target]
