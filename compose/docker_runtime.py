"""The docker runtime: one compose project per run, labels on everything, nothing left behind."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
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
# The engine goes on with a request whose client has ended: what it makes may come after the list was taken.
ROUNDS_MAX = 10
AGAIN_S = 0.4
CALM_AFTER_CUT = 5  # lists without anything, 2 s: the slowest network seen under load took one
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
        self._compose_version = engine.compose_version()
        self._cut_short = False

    def start(self) -> None:
        self._cut_short = True
        if self._build:
            engine.compose(self._project, self._file, ["build", "--quiet"])
        engine.compose(self._project, self._file, ["up", "-d", "--no-build", "--quiet-pull"])
        self._cut_short = False

    def nodes(self) -> list[NodeState]:
        label = {"label": f"{engine.LABEL_RUN}={self._plan.run}"}
        with engine.blamed():
            # One call, no inspection of each container: it is asked every second while quotas are measured.
            return [_state(row) for row in self._engine.api.containers(all=True, filters=label)]

    def facts(self) -> dict[str, object]:
        images = {c.labels.get(engine.LABEL_NODE, c.name): c.attrs["Image"] for c in self._containers()}
        return {"services": sorted(images), "images": images, "compose": self._compose_version}

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
        calm = CALM_AFTER_CUT if self._cut_short else 1
        remove_run(self._engine, self._plan.run, calm=calm)

    def left(self) -> list[str]:
        label = {"label": f"{engine.LABEL_RUN}={self._plan.run}"}
        with engine.blamed():
            networks = self._engine.networks.list(filters=label)
            volumes = self._engine.volumes.list(filters=label)
        things = [("container", self._containers()), ("network", networks), ("volume", volumes)]
        return [f"{kind} {thing.name}" for kind, found in things for thing in found]

    def _containers(self) -> list[Any]:
        return containers_of(self._engine, self._plan.run)


def containers_of(client: Any, run: str) -> list[Any]:
    """Every container labelled with this run, running or not. Raises EnvironmentProblem."""
    label = {"label": f"{engine.LABEL_RUN}={run}"}
    with engine.blamed():
        return list(client.containers.list(all=True, filters=label, ignore_removed=True))


def remove_run(
    client: Any, run: str, *, calm: int = 1, wait: Callable[[float], Any] = time.sleep
) -> list[str]:
    """Remove a run's containers, networks and volumes by label; what was removed. Idempotent, and it needs no file.

    It lists again until `calm` lists in a row were empty, at most ROUNDS_MAX times.
    """
    removal = _Removal()
    empty = 0
    for turn in range(ROUNDS_MAX):
        if turn > 1 or empty:
            wait(AGAIN_S)
        empty = 0 if _remove_listed(client, run, removal) else empty + 1
        if removal.failures:
            raise EnvironmentProblem(
                "Docker could not clean up everything", log=removal.failures[:5], hint=LEFT
            )
        if empty >= calm:
            break
    return removal.removed


def _remove_listed(client: Any, run: str, removal: _Removal) -> int:
    """Everything that the engine lists now; how much that was.

    hostd goes first and by SIGTERM, since it heals the host when it ends; then everybody else at once.
    """
    found = containers_of(client, run)
    for container in found:
        if container.labels.get(engine.LABEL_ROLE) == "hostd":
            removal.does(container.stop, timeout=STOP_GRACE_S * 2)
    for container in found:
        if container.status == "paused":
            removal.does(container.unpause)
        removal.takes(f"container {container.name}", container.remove, force=True, v=True)
    label = {"label": f"{engine.LABEL_RUN}={run}"}
    with engine.blamed():
        networks, volumes = client.networks.list(filters=label), client.volumes.list(filters=label)
    for network in networks:
        removal.takes(f"network {network.name}", network.remove)
    for volume in volumes:
        removal.takes(f"volume {volume.name}", volume.remove, force=True)
    return len(found) + len(networks) + len(volumes)


class _Removal:
    """Goes on past what fails: one stubborn network must not leave ten containers behind."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.failures: list[str] = []

    def takes(self, what: str, call: Any, **arguments: Any) -> None:
        if self.does(call, **arguments):
            self.removed.append(what)

    def does(self, call: Any, **arguments: Any) -> bool:
        """False where it was gone already, or where it failed."""
        try:
            call(**arguments)
            return True
        except docker.errors.NotFound:
            return False
        except docker.errors.APIError as error:
            if error.status_code != 409:  # 409: somebody else is removing it just now
                self.failures.append(str(error.explanation or error)[:300])
        except requests.exceptions.RequestException as error:
            self.failures.append(f"no answer: {error}"[:300])
        return False


_EXITED = re.compile(r"^Exited \((\d+)\)")


def _state(row: dict[str, Any]) -> NodeState:
    """From a row of `docker ps`: `State` is a word, and the exit code stands in `Status`."""
    running = row["State"] in ("running", "paused", "restarting", "created")
    exited = _EXITED.match(row.get("Status") or "")
    return NodeState(
        name=row["Labels"].get(engine.LABEL_NODE, row["Names"][0].lstrip("/")),
        role=row["Labels"].get(engine.LABEL_ROLE, "agent"),
        running=running,
        exit_code=int(exited[1]) if exited and not running else None,
        detail=row["State"],
    )


def _logs(container: Any, tail: int) -> str:
    try:
        text: bytes = container.logs(tail=tail, timestamps=False)
    except (docker.errors.DockerException, requests.exceptions.RequestException):
        return ""
    return text.decode("utf-8", "replace")
