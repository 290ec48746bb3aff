"""What a fault is: three functions on one target. When it fires is decided elsewhere
(`emulation.faults.core`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from emulation.docker_host import Container


class FaultProblem(RuntimeError):
    """The fault could not be applied, or its target is not what it needs; the run is marked."""


class Machines(Protocol):
    """What faults do to containers (`emulation.docker_host.DockerHost`, or a fake)."""

    def containers(self) -> dict[str, Container]: ...

    def inspect(self, container: Container) -> Container: ...

    def kill(self, container: Container, signal: str = "KILL") -> None: ...

    def start(self, container: Container) -> None: ...

    def stop(self, container: Container) -> None: ...

    def pause(self, container: Container) -> None: ...

    def unpause(self, container: Container) -> None: ...

    def set_quota(self, container: Container, cores: float, period_us: int) -> None: ...


@dataclass(frozen=True)
class Seen:
    """What verifying found: whether the fault has taken, and what was looked at."""

    ok: bool
    detail: str


class Fault(Protocol):
    """`apply` and `heal` act once; `heal` of what is healed already does nothing. All raise DockerProblem."""

    kind: str
    restarts: bool  # whether healing starts a container anew: not done once the run is over

    def apply(self, machines: Machines, target: str) -> None: ...

    def verify(self, machines: Machines, target: str) -> Seen: ...

    def heal(self, machines: Machines, target: str) -> None: ...


def find(machines: Machines, target: str) -> Container:
    """The target's container. Raises FaultProblem naming those that are there."""
    containers = machines.containers()
    if target not in containers:
        raise FaultProblem(
            f"no container of this run is called {target!r}; there are {', '.join(sorted(containers))}"
        )
    return containers[target]
