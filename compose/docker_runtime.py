"""The docker runtime: one compose project per run, labels on everything, nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import docker.errors
import requests.exceptions

from compose import engine
from compose.errors import EnvironmentProblem
from compose.runtime import NodeState
from history.events import Event
from topology.plan import Plan

LEFT = "when the engine is well again, `edgerig sweep` removes what is left"
STOP_GRACE_S = 4  # agents go offline cleanly in under a second even at 0.15 core; the broker at once


def project(run: str) -> str:
    return f"edgerig-{run}"


class DockerRuntime:
    """Containers of one run, as its `compose.yaml` says. The plan, shards and credentials are there already."""

    def __init__(self, plan: Plan, root: Path, *, build: bool = True) -> None:
        self._plan, self._root, self._build = plan, root, build
        self._file = root / "compose.yaml"
        self._project = project(plan.run)
        self._engine = engine.client()
        engine.require_compose()

    def start(self) -> None:
        if self._build:
            engine.compose(self._project, self._file, ["build", "--quiet"])
        engine.compose(self._project, self._file, ["up", "-d", "--no-build", "--quiet-pull"])

    def nodes(self) -> list[NodeState]:
        with engine.blamed():
            return [_state(container) for container in self._containers()]

    def handle(self, events: list[Event], now: float) -> None:
        """hostd fires the faults in this runtime."""

    def log_tail(self, node: str, lines: int = 12) -> list[str]:
        for container in self._containers():
            if container.labels.get(engine.LABEL_NODE) == node:
                return _logs(container, tail=lines).splitlines()
        return []

    def save_logs(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for container in self._containers():
            name = container.labels.get(engine.LABEL_NODE, container.name)
            (folder / f"{name}.log").write_text(_logs(container, tail=20_000))

    def stop(self) -> None:
        remove_run(self._engine, self._plan.run)

    def _containers(self) -> list[Any]:
        return containers_of(self._engine, self._plan.run)


def containers_of(client: Any, run: str) -> list[Any]:
    """Every container labelled with this run, running or not. Raises EnvironmentProblem."""
    label = {"label": f"{engine.LABEL_RUN}={run}"}
    with engine.blamed():
        return list(client.containers.list(all=True, filters=label, ignore_removed=True))


def remove_run(client: Any, run: str) -> list[str]:
    """Remove a run's containers, networks and volumes by label; what was removed. Idempotent, and it needs no file.

    hostd goes first and by SIGTERM, since it heals the host when it ends; then everybody else at once.
    """
    removed = []
    found = containers_of(client, run)
    for container in sorted(found, key=lambda c: c.labels.get(engine.LABEL_ROLE) != "hostd"):
        if container.labels.get(engine.LABEL_ROLE) == "hostd":
            _quietly(container.stop, timeout=STOP_GRACE_S * 2)
    for container in found:
        if container.status == "paused":
            _quietly(container.unpause)
        if _quietly(container.remove, force=True, v=True):
            removed.append(f"container {container.name}")
    label = {"label": f"{engine.LABEL_RUN}={run}"}
    with engine.blamed():
        networks, volumes = client.networks.list(filters=label), client.volumes.list(filters=label)
    for network in networks:
        if _quietly(network.remove):
            removed.append(f"network {network.name}")
    for volume in volumes:
        if _quietly(volume.remove, force=True):
            removed.append(f"volume {volume.name}")
    return removed


def _quietly(call: Any, **arguments: Any) -> bool:
    """Do it; False where it was gone already."""
    try:
        call(**arguments)
        return True
    except docker.errors.NotFound:
        return False
    except docker.errors.APIError as error:
        if error.status_code == 409:  # somebody else is removing it just now
            return False
        raise EnvironmentProblem(
            f"Docker could not clean up: {error.explanation or error}", hint=LEFT
        ) from None
    except requests.exceptions.RequestException as error:
        raise EnvironmentProblem(f"Docker does not answer while cleaning up: {error}", hint=LEFT) from None


def _state(container: Any) -> NodeState:
    state = container.attrs.get("State") or {}
    running = container.status in ("running", "paused", "restarting", "created")
    return NodeState(
        name=container.labels.get(engine.LABEL_NODE, container.name),
        role=container.labels.get(engine.LABEL_ROLE, "agent"),
        running=running,
        exit_code=None if running else _exit_code(container, state),
        detail=container.status,
    )


def _exit_code(container: Any, state: Any) -> int | None:
    """`docker ps` has no exit code: ask for this one container."""
    if "ExitCode" in state:
        return int(state["ExitCode"])
    try:
        container.reload()
    except docker.errors.NotFound:
        return None
    return int(container.attrs["State"].get("ExitCode", -1))


def _logs(container: Any, tail: int) -> str:
    try:
        text: bytes = container.logs(tail=tail, timestamps=False)
    except (docker.errors.DockerException, requests.exceptions.RequestException):
        return ""
    return text.decode("utf-8", "replace")
