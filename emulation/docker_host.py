"""The containers of one run on this host, through the Docker API. Only containers labelled with the run
are touched.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
from dataclasses import dataclass
from typing import Any, Literal

import docker
import docker.errors
import requests

from emulation.cgroup import CgroupError
from emulation.exhaust import exhaust

LABEL_RUN, LABEL_NODE, LABEL_ROLE = "io.edgerig.run", "io.edgerig.node", "io.edgerig.role"
API_WAIT_S = 20  # a daemon that is starting ten containers answers within seconds
STOP_WAIT_S = 10
QUIET_S_MAX = 86_400  # a run without any event for a day
EVENTS_MAX = 1_000  # waiting to be looked at; each says only "look again"

Role = Literal["agent", "broker", "coordinator", "hostd", "init", "report"]


class DockerProblem(RuntimeError):
    """The daemon did not do what was asked; the text says what and why."""


@dataclass(frozen=True)
class Container:
    """`pid` is 0 when it does not run. `nano_cpus` and `memory_bytes` are what the daemon has been told."""

    id: str
    node: str
    role: str
    status: str
    pid: int
    started_at: str
    exit_code: int
    nano_cpus: int
    memory_bytes: int
    oom_killed: bool = False

    @property
    def running(self) -> bool:
        return self.pid > 0

    @classmethod
    def of(cls, inspected: dict[str, Any]) -> Container:
        state, labels = inspected["State"], inspected["Config"].get("Labels") or {}
        host = inspected["HostConfig"]
        cpus = int(host.get("NanoCpus") or 0)
        if not cpus and host.get("CpuQuota") and host.get("CpuPeriod"):
            cpus = int(host["CpuQuota"] / host["CpuPeriod"] * 1e9)
        return cls(
            id=inspected["Id"],
            node=labels.get(LABEL_NODE, inspected["Name"].lstrip("/")),
            role=labels.get(LABEL_ROLE, ""),
            status=str(state.get("Status")),
            pid=int(state.get("Pid") or 0),
            started_at=str(state.get("StartedAt")),
            exit_code=int(state.get("ExitCode") or 0),
            nano_cpus=cpus,
            memory_bytes=int(host.get("Memory") or 0),
            oom_killed=bool(state.get("OOMKilled")),
        )


class DockerHost:
    """`watch` starts a thread that notes that something happened; `changed` says so once."""

    def __init__(self, run: str) -> None:
        self.run = run
        try:
            # Typed Any: updating NanoCpus needs calls the library has but does not offer.
            self._client: Any = docker.DockerClient(
                base_url="unix:///var/run/docker.sock", timeout=API_WAIT_S
            )
            self._version: dict[str, Any] = self._client.version()
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise DockerProblem(f"no Docker Engine at /var/run/docker.sock: {error}") from None
        self._events: queue.Queue[str] = queue.Queue(EVENTS_MAX)
        self._inside: dict[str, str] = {}  # container id -> exec id
        self._hogs: dict[str, subprocess.Popen[bytes]] = {}
        self._label = f"{LABEL_RUN}={run}"

    @property
    def version(self) -> str:
        return str(self._version.get("Version"))

    def containers(self) -> dict[str, Container]:
        """By node. One whose removal overtakes the inspection is left out."""
        found: dict[str, Container] = {}
        for item in self._call(
            "list containers", lambda: self._client.api.containers(all=True, filters=self._filter())
        ):
            try:
                container = Container.of(self._client.api.inspect_container(item["Id"]))
            except docker.errors.NotFound:
                continue
            except (docker.errors.DockerException, requests.RequestException) as error:
                raise DockerProblem(f"inspect {item['Id'][:12]}: {error}") from None
            found[container.node] = container
        return found

    def inspect(self, container: Container) -> Container:
        return Container.of(
            self._call(f"inspect {container.node}", lambda: self._client.api.inspect_container(container.id))
        )

    def kill(self, container: Container, signal: str = "KILL") -> None:
        self._call(f"kill {container.node}", lambda: self._client.api.kill(container.id, signal=signal))

    def start(self, container: Container) -> None:
        self._call(f"start {container.node}", lambda: self._client.api.start(container.id))

    def stop(self, container: Container) -> None:
        self._call(f"stop {container.node}", lambda: self._client.api.stop(container.id, timeout=STOP_WAIT_S))

    def restart(self, container: Container) -> None:
        self._call(
            f"restart {container.node}", lambda: self._client.api.restart(container.id, timeout=STOP_WAIT_S)
        )

    def pause(self, container: Container) -> None:
        self._call(f"pause {container.node}", lambda: self._client.api.pause(container.id))

    def unpause(self, container: Container) -> None:
        self._call(f"unpause {container.node}", lambda: self._client.api.unpause(container.id))

    def set_quota(self, container: Container, cores: float, period_us: int) -> None:
        """A new CPU quota on the running container. The daemon refuses a mix of NanoCpus and quota: clear
        one first.
        """
        options = {"NanoCpus": round(cores * 1e9)}
        if not container.nano_cpus:
            options = {"CpuQuota": round(cores * period_us), "CpuPeriod": period_us}
        api = self._client.api
        path = api._url("/containers/{0}/update", container.id)
        self._call(f"update {container.node}", lambda: api._result(api._post_json(path, data=options), True))

    def exhaust_memory(self, container: Container) -> None:
        """Raises DockerProblem where the host itself has not so much."""
        try:
            self._hogs[container.id] = exhaust(container.pid, container.memory_bytes)
        except (CgroupError, OSError, ValueError) as error:
            raise DockerProblem(f"exhaust the memory of {container.node}: {error}") from None

    def release_memory(self, container: Container) -> None:
        """End what `exhaust_memory` started; where that never was, nothing happens."""
        hog = self._hogs.pop(container.id, None)
        if hog is not None:
            hog.kill()
            hog.wait(STOP_WAIT_S)

    def run_inside(self, container: Container, program: str, arguments: list[str]) -> None:
        """One at a time per container; an earlier one is ended first."""
        self.stop_inside(container)
        api, command = self._client.api, ["python3", "-c", program, *arguments]
        made = self._call(f"exec in {container.node}", lambda: api.exec_create(container.id, command))
        self._inside[container.id] = made["Id"]
        self._call(f"exec in {container.node}", lambda: api.exec_start(made["Id"], detach=True))

    def running_inside(self, container: Container) -> bool:
        exec_id = self._inside.get(container.id)
        if exec_id is None:
            return False
        found = self._call(f"exec in {container.node}", lambda: self._client.api.exec_inspect(exec_id))
        return bool(found.get("Running"))

    def stop_inside(self, container: Container) -> None:
        """By its process id: the engine has no call for it, and hostd shares the host's process ids."""
        exec_id = self._inside.pop(container.id, None)
        if exec_id is None:
            return
        found = self._call(f"exec in {container.node}", lambda: self._client.api.exec_inspect(exec_id))
        if found.get("Running") and int(found.get("Pid") or 0) > 1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(found["Pid"]), signal.SIGKILL)

    def watch(self) -> None:
        """From here on `changed` answers from the daemon's events. Should the stream break, who looks every few
        seconds anyway (hostd's REFRESH_S) learns of changes later.
        """
        threading.Thread(target=self._follow, name="docker-events", daemon=True).start()

    def changed(self, wait_s: float) -> bool:
        """Whether anything happened to the run's containers, waiting for it at most so long."""
        try:
            self._events.get(timeout=wait_s)
        except queue.Empty:
            return False
        while not self._events.empty():
            self._events.get_nowait()
        return True

    def _follow(self) -> None:
        # The generous timeout of the client would end a quiet stream: events have a client of their own.
        client: Any = docker.DockerClient(base_url="unix:///var/run/docker.sock", timeout=QUIET_S_MAX)
        wanted = {"type": "container", "label": self._label, "event": ["start", "die", "pause", "unpause"]}
        for event in client.events(decode=True, filters=wanted):
            try:
                self._events.put_nowait(str(event.get("Action")))
            except queue.Full:
                continue

    def _filter(self) -> dict[str, list[str]]:
        return {"label": [self._label]}

    def _call(self, what: str, function: Any) -> Any:
        try:
            return function()
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise DockerProblem(f"{what}: {error}") from None
