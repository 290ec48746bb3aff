"""The run's nodes as hostd sees them: which boot of which container, and what has changed since it last
looked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from emulation.docker_host import Container
from emulation.netns import Netns
from emulation.token import ProcessGone, boot_token
from topology.plan import Plan

BROKER = "broker"


class Containers(Protocol):
    """What the fleet needs of Docker."""

    def containers(self) -> dict[str, Container]: ...


@dataclass(frozen=True)
class Node:
    """One boot of one container. `token` names the boot; it also opens that node's gate."""

    name: str
    role: str
    container: Container
    token: str

    def netns(self) -> Netns:
        """Raises NamespaceError when the container has ended."""
        return Netns.of_pid(self.container.pid)


@dataclass(frozen=True)
class Started:
    node: Node


@dataclass(frozen=True)
class Died:
    """`last` is the boot that ended; `exit_code` of its first process, None when the container was removed."""

    last: Node
    exit_code: int | None


class Fleet:
    """`refresh` asks Docker and says what started and died; a restart between two looks is a death and a
    start.
    """

    def __init__(self, plan: Plan, docker: Containers) -> None:
        self._docker = docker
        self._wanted = [BROKER, *(device.name for device in plan.devices)]
        self.running: dict[str, Node] = {}
        self.containers: Mapping[str, Container] = {}

    def refresh(self) -> list[Started | Died]:
        self.containers = self._docker.containers()
        changes: list[Started | Died] = []
        now = {name: node for name, c in self.containers.items() if (node := _node(c)) is not None}
        for name, last in list(self.running.items()):
            if name not in now or now[name].token != last.token:
                container = self.containers.get(name)
                same_boot = container is not None and not container.running
                changes.append(
                    Died(last, container.exit_code if container is not None and same_boot else None)
                )
        changes += [Started(n) for name, n in now.items() if self._token_of(name) != n.token]
        self.running = now
        return changes

    def missing(self) -> list[str]:
        """Nodes that must run and do not, each with its state in words; empty when all run."""
        found = []
        for name in self._wanted:
            if name in self.running:
                continue
            container = self.containers.get(name)
            if container is None:
                found.append(f"{name}: no container")
            elif container.status == "exited":
                found.append(f"{name}: exited with {container.exit_code}")
            else:
                found.append(f"{name}: {container.status}")
        return found

    def agents_running(self) -> list[str]:
        return [name for name in self._wanted if name != BROKER and name in self.running]

    def _token_of(self, name: str) -> str | None:
        node = self.running.get(name)
        return node.token if node else None


def _node(container: Container) -> Node | None:
    if not container.running:
        return None
    try:
        return Node(container.node, container.role, container, boot_token(container.pid))
    except ProcessGone:
        return None  # it died while we looked; the next look says so
