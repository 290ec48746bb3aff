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
from pathlib import Path
from typing import Any, Literal

import docker
import docker.errors
import requests

from emulation.cgroup import Cgroup, CgroupError
from emulation.exhaust import exhaust

LABEL_RUN, LABEL_NODE, LABEL_ROLE = "io.edgerig.run", "io.edgerig.node", "io.edgerig.role"
API_WAIT_S = 20  # a daemon that is starting ten containers answers within seconds
STOP_WAIT_S = 10
INSIDE_MARK = "# started by hostd for a fault"  # first line of every program that it runs inside a container
QUIET_S_MAX = 86_400  # a run without any event for a day
EVENTS_MAX = 1_000  # waiting to be looked at; each says only "look again"

Role = Literal["agent", "broker", "coordinator", "hostd", "init", "report"]


def engine_address() -> str:
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


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
    own_period: bool = False  # made with a quota and a period, not with NanoCpus

    @property
    def running(self) -> bool:
        return self.pid > 0

    @classmethod
    def of(cls, inspected: dict[str, Any]) -> Container:
        state, labels = inspected["State"], inspected["Config"].get("Labels") or {}
        host = inspected["HostConfig"]
        cpus = int(host.get("NanoCpus") or 0)
        own_period = not cpus and bool(host.get("CpuQuota")) and bool(host.get("CpuPeriod"))
        if own_period:
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
            own_period=own_period,
        )

    @classmethod
    def listed(cls, item: dict[str, Any]) -> Container:
        """One that has not been started yet, of what a list says."""
        labels = item.get("Labels") or {}
        return cls(
            id=item["Id"],
            node=labels.get(LABEL_NODE, item["Names"][0].lstrip("/")),
            role=labels.get(LABEL_ROLE, ""),
            status=str(item["State"]),
            pid=0,
            started_at="",
            exit_code=0,
            nano_cpus=0,
            memory_bytes=0,
        )


def quota_options(container: Container, cores: float, period_us: int) -> dict[str, int]:
    """In the form that the container was made with: the daemon refuses NanoCpus where there is a quota, and a quota
    where there are NanoCpus.
    """
    if container.own_period or not container.nano_cpus:
        return {"CpuQuota": round(cores * period_us), "CpuPeriod": period_us}
    return {"NanoCpus": round(cores * 1e9)}


class DockerHost:
    """`watch` starts a thread that notes that something happened; `changed` says so once."""

    def __init__(self, run: str) -> None:
        self.run = run
        try:
            # Typed Any: updating NanoCpus needs calls the library has but does not offer.
            self._client: Any = docker.from_env(timeout=API_WAIT_S)
            self._version: dict[str, Any] = self._client.version()
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise DockerProblem(f"no Docker Engine at {engine_address()}: {error}") from None
        self._events: queue.Queue[str] = queue.Queue(EVENTS_MAX)
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
            if item.get("State") == "created":
                # The daemon answers an inspection only when the start it is busy with is over: the ones that run
                # already would wait for the last.
                waiting = Container.listed(item)
                found[waiting.node] = waiting
                continue
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
        """A new CPU quota on the running container."""
        options = quota_options(container, cores, period_us)
        api = self._client.api
        path = api._url("/containers/{0}/update", container.id)
        self._call(f"update {container.node}", lambda: api._result(api._post_json(path, data=options), True))

    def remove(self, container_id: str) -> None:
        """Whatever state it is in, a frozen one too; gone already is no error."""
        api = self._client.api
        with contextlib.suppress(docker.errors.APIError, requests.RequestException):
            api.unpause(container_id)
        self._call(
            f"remove {container_id[:12]}",
            lambda: _gone_is_fine(lambda: api.remove_container(container_id, force=True, v=True)),
        )

    def networks_and_volumes(self) -> dict[str, list[str]]:
        """Names of what carries the run's label, networks first."""
        api = self._client.api
        networks = self._call("list networks", lambda: api.networks(filters=self._filter()))
        volumes = self._call("list volumes", lambda: api.volumes(filters=self._filter()))["Volumes"] or []
        return {"network": [n["Id"] for n in networks], "volume": [v["Name"] for v in volumes]}

    def remove_named(self, kind: str, name: str) -> None:
        api = self._client.api
        remove = api.remove_network if kind == "network" else api.remove_volume
        self._call(f"remove {kind} {name}", lambda: _gone_is_fine(lambda: remove(name)))

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
        api, command = self._client.api, ["python3", "-c", f"{INSIDE_MARK}\n{program}", *arguments]
        made = self._call(f"exec in {container.node}", lambda: api.exec_create(container.id, command))
        self._call(f"exec in {container.node}", lambda: api.exec_start(made["Id"], detach=True))

    def stop_inside(self, container: Container) -> None:
        """Found by its mark in the container's cgroup, so that a hostd that starts again finds it, too. The engine
        has no call to end what it has started inside; hostd shares the host's process ids.
        """
        for pid in self._inside(container):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _inside(self, container: Container) -> list[int]:
        if not container.running:
            return []
        try:
            found = Cgroup.of_pid(container.pid).processes()
            return [pid for pid in found if INSIDE_MARK in _command_of(pid)]
        except CgroupError as error:
            raise DockerProblem(f"look for what was started in {container.node}: {error}") from None

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


def _gone_is_fine(function: Any) -> None:
    with contextlib.suppress(docker.errors.NotFound):
        function()


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""  # it has just ended
