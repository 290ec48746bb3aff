"""One container of a run per function: limits, rights, health and mounts. `compose.generate` puts them
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from compose import engine
from compose.broker_config import CONTAINER_MEMORY_BYTES
from compose.prepare import CONTAINER_ROOT, GATE_WAIT_FACTOR
from topology.names import is_path
from topology.plan import DevicePlan, Plan
from topology.plan.agent import HOOK_NAME
from topology.sources import check_names, files_of

MIB = 1024 * 1024
IMAGES = {role: f"edgerig-{role}" for role in ("agent", "coordinator", "hostd", "broker")}
# Secrets of the build alone: the building machine's CA bundle, pip and apt settings; /dev/null counts as
# none.
BUILD_SECRETS = {
    "edgerig_ca": "EDGERIG_BUILD_CA",
    "edgerig_pip": "EDGERIG_BUILD_PIP",
    "edgerig_apt": "EDGERIG_BUILD_APT",
}
BASE_IMAGE = "python:3.11-slim-bookworm"

DEFAULT_PERIOD_US = 100_000  # the kernel's; with another one quota and period are written instead of `cpus`
# Test data, one evaluation, 32 MiB of updates in transit: measured below 400 MiB.
COORDINATOR_MEMORY_BYTES = 1024 * MIB
SERVICE_MEMORY_BYTES = 512 * MIB  # hostd with 20 packet queues: measured below 250 MiB
AGENT_PIDS, SERVICE_PIDS = 64, 256  # an agent has about 12 threads; hostd starts tc and iptables in parallel
LOCK_NAME = "runner.lock"  # in the run's folder; held by the runner for its whole life
TMPFS = "/tmp:size=16m,mode=1777"  # the only writable place of an image; it counts as memory of the container
ALIVE = "/tmp/alive"  # touched by a service that goes on; a check only looks at its age
STATUS_PORT = 9464  # where exporters of OpenTelemetry listen; each coordinator has its own address
LOG_OPTIONS = {"max-size": "5m", "max-file": "2"}  # a run logs some 100 kB; a loop must not fill the disk
HEALTH_EVERY = (
    "30s"  # a check starts three processes inside the quota it watches: rare enough not to be measured
)
# hostd (emulation): enter namespaces, shape, read their /proc, raise its delay process, write gates of other
# users, kill.
# CHOWN: its control socket belongs to who started the run.
HOSTD_CPU_SHARES = 16_384  # of 1,024 for everybody else
HOSTD_CAPABILITIES = ["NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE", "SYS_NICE", "DAC_OVERRIDE", "KILL", "CHOWN"]


class ServiceMaker:
    """Services of one plan. `root` is the run's folder on the host, empty where there is none."""

    def __init__(self, plan: Plan, mounts: Mounts, repo: str, root: str) -> None:
        self.plan, self.mounts, self.repo, self.root = plan, mounts, repo, root
        self._built: set[str] = set()

    # --- what all of them have ------------------------------------------------------------------------------

    def labels(self, node: str, role: str) -> dict[str, str]:
        found = {engine.LABEL_RUN: self.plan.run, engine.LABEL_NODE: node, engine.LABEL_ROLE: role}
        return {**found, engine.LABEL_ROOT: self.root} if self.root else found

    def address(self, text: str) -> str:
        """An address of the data network as the mode writes it."""
        return self.mounts.address(text)

    def _base(self, node: str, role: str, image: str, *, memory_bytes: int, pids: int) -> dict[str, Any]:
        return {
            **self._image(image),
            "container_name": f"edgerig-{self.plan.run}-{node}",
            "hostname": node,
            "labels": self.labels(node, role),
            "init": True,
            "read_only": True,
            "tmpfs": [TMPFS],
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "mem_limit": memory_bytes,
            "memswap_limit": memory_bytes,  # no swap: a device that would need it has too little memory
            "pids_limit": pids,
            "logging": {"driver": "json-file", "options": LOG_OPTIONS},
        }

    def _image(self, role: str) -> dict[str, Any]:
        """The first service of an image builds it, so that ten agents do not build it ten times."""
        if role in self._built:
            return {"image": IMAGES[role], "pull_policy": "never"}
        self._built.add(role)
        build = {
            "context": self.repo,
            "dockerfile": "images/Dockerfile",
            "target": role,
            "args": {"BASE_IMAGE": f"${{EDGERIG_BASE_IMAGE:-{BASE_IMAGE}}}"},
            "secrets": list(BUILD_SECRETS),
        }
        return {"image": IMAGES[role], "build": build}

    def _sysctls(self) -> dict[str, Any]:
        """/proc/sys is read-only in a container, so what is pinned has to be pinned here."""
        congestion = self.plan.network.congestion
        return {"sysctls": {"net.ipv4.tcp_congestion_control": congestion}} if congestion else {}

    # --- the services ---------------------------------------------------------------------------------------

    def broker(self) -> dict[str, Any]:
        port = self.plan.network.broker_port
        return {
            **self._base("broker", "broker", "broker", memory_bytes=CONTAINER_MEMORY_BYTES, pids=AGENT_PIDS),
            "user": _user(self.plan.broker_uid),
            "environment": {
                "EDGERIG_NODE": "broker",
                "EDGERIG_PRIVATE": f"{CONTAINER_ROOT}/private/broker",
                "EDGERIG_GATE": f"{CONTAINER_ROOT}/gate",
                "EDGERIG_GATE_WAIT_S": str(int(GATE_WAIT_FACTOR * self.plan.start_timeout_s)),
            },
            "networks": {
                "data": {"ipv4_address": self.address(self.plan.network.broker_address)},
                "control": {},
            },
            **self._sysctls(),
            # Field 4 of /proc/net/tcp is the state, 0A is LISTEN. No client is started just to ask.
            "healthcheck": _health(f"grep -q ':{port:04X} 0*:0000 0A' /proc/net/tcp /proc/net/tcp6", "5s"),
            "volumes": self.mounts.broker(),
            "restart": "no",
            "stop_grace_period": "5s",
            **self.mounts.depends,
        }

    def coordinator(self) -> dict[str, Any]:
        return {
            **self._base(
                "coordinator",
                "coordinator",
                "coordinator",
                memory_bytes=COORDINATOR_MEMORY_BYTES,
                pids=SERVICE_PIDS,
            ),
            "user": _user(self.plan.coordinator_uid),
            # Its name is its address on `control`: the host reaches that, agents are on `data` only.
            "command": [
                *("--root", CONTAINER_ROOT, "--alive", ALIVE),
                *("--status-host", "coordinator", "--status-port", str(STATUS_PORT)),
            ],
            "networks": {"control": {}},
            **self._sysctls(),
            "healthcheck": _health(f"find {ALIVE} -mmin -1 | grep -q .", HEALTH_EVERY),
            "volumes": self.mounts.coordinator(),
            # It resumes from its journal; five times, so that a crash loop ends.
            "restart": "on-failure:5",
            "stop_grace_period": "10s",
            **self.mounts.depends,
        }

    def hostd(self) -> dict[str, Any]:
        """Root-equivalent by its task: it enters other containers' namespaces and drives the engine."""
        base = self._base("hostd", "hostd", "hostd", memory_bytes=SERVICE_MEMORY_BYTES, pids=SERVICE_PIDS)
        del base["hostname"]  # with the host's network it has the host's name
        return {
            **base,
            "user": "0:0",
            "command": ["--root", CONTAINER_ROOT, *self.mounts.lease()],
            # Before all devices from its first instruction: they load their libraries while it looks at the host.
            "cpu_shares": HOSTD_CPU_SHARES,
            "pid": "host",
            "network_mode": "host",
            "cgroup": "host",
            "cap_add": HOSTD_CAPABILITIES,
            # AppArmor's default profile denies reading another container's namespaces; nothing where there is
            # none.
            "security_opt": ["no-new-privileges:true", "apparmor:unconfined"],
            "volumes": [
                *self.mounts.hostd(),
                _bind("/var/run/docker.sock", "/var/run/docker.sock"),
                _bind("/sys/fs/cgroup", "/sys/fs/cgroup"),
            ],
            "restart": "on-failure:5",
            "stop_grace_period": "20s",
            **self.mounts.depends,
        }

    def agent(self, device: DevicePlan) -> dict[str, Any]:
        config = f"{CONTAINER_ROOT}/private/{device.name}/agent.yaml"
        return {
            **self._base(device.name, "agent", "agent", memory_bytes=device.memory_bytes, pids=AGENT_PIDS),
            "user": _user(device.uid),
            "command": ["--config", config],
            **_cpu(device),
            "networks": {"data": {"ipv4_address": self.address(device.address)}},
            **self._sysctls(),
            "healthcheck": _health(f"find {ALIVE} -mmin -1 | grep -q .", HEALTH_EVERY),
            "volumes": self.mounts.agent(device.name),
            # A fault owns the life of an agent: a restart policy would hide a kill.
            "restart": "no",
            "stop_grace_period": "4s",
            # A link is put in force between two ends: those all links share start first.
            "depends_on": {
                **self.mounts.depends.get("depends_on", {}),
                **{name: {"condition": "service_started"} for name in ("broker", "hostd")},
            },
        }

    def helper(self, role: str, *, entrypoint: list[str], volumes: list[Any], **more: Any) -> dict[str, Any]:
        """init and report: as root, without network and with few capabilities."""
        return {
            **self._base(role, role, "coordinator", memory_bytes=COORDINATOR_MEMORY_BYTES, pids=AGENT_PIDS),
            "user": "0:0",
            "network_mode": "none",
            "entrypoint": entrypoint,
            "volumes": volumes,
            "restart": "no",
            "stop_grace_period": "2s",
            **more,
        }


def _user(uid: int) -> str:
    return f"{uid}:{uid}"


def _cpu(device: DevicePlan) -> dict[str, Any]:
    if device.cpu_period_us == DEFAULT_PERIOD_US:
        return {"cpus": device.cpus}
    return {"cpu_period": device.cpu_period_us, "cpu_quota": round(device.cpus * device.cpu_period_us)}


def _health(command: str, every: str) -> dict[str, Any]:
    return {
        "test": ["CMD-SHELL", command],
        "interval": every,
        "timeout": "10s",
        "retries": 3,
        "start_period": "60s",
    }


def _bind(source: str, target: str, *, read_only: bool = False) -> dict[str, Any]:
    # Long form, and the source has to be there: Docker would make a root-owned folder of a misspelled path.
    mount: dict[str, Any] = {"type": "bind", "source": source, "target": target}
    if read_only:
        mount["read_only"] = True
    return {**mount, "bind": {"create_host_path": False}}


class Mounts(Protocol):
    """Where the parts of a run's folder come from; all paths inside a container are the same in both modes."""

    volumes: list[str]
    depends: dict[str, Any]

    def address(self, text: str) -> str: ...
    def broker(self) -> list[Any]: ...
    def coordinator(self) -> list[Any]: ...
    def hostd(self) -> list[Any]: ...
    def lease(self) -> list[str]: ...
    def agent(self, name: str) -> list[Any]: ...
    def before(self, make: ServiceMaker) -> dict[str, Any]: ...
    def after(self, make: ServiceMaker) -> dict[str, Any]: ...


class BindMounts:
    """Each container gets its own parts of `runs/<id>/` and nothing of the others'."""

    def __init__(self, root: str, hooked: Sequence[str] = (), *, leased: bool = False) -> None:
        self._root, self._hooked, self._leased = root, hooked, leased
        self.volumes: list[str] = []
        self.depends: dict[str, Any] = {}

    def address(self, text: str) -> str:
        return text

    def broker(self) -> list[Any]:
        return [self._part("private/broker"), self._part("gate")]

    def coordinator(self) -> list[Any]:
        own = [self._part(path) for path in ("plan.json", "private/coordinator", "shards/test", "model")]
        return [*own, self._part("nodes/coordinator", writable=True)]

    def hostd(self) -> list[Any]:
        read = [self._part("plan.json"), self._part("nodes")]
        # Where a fault makes a device do wrong, hostd writes that device's hook; the file, nothing beside it.
        hooks = [self._part(f"nodes/{name}/{HOOK_NAME}", writable=True) for name in self._hooked]
        held = [self._part(LOCK_NAME)] if self._leased else []
        written = [self._part("nodes/hostd", writable=True), self._part("gate", writable=True), *hooks]
        return [*read, *held, *written]

    def lease(self) -> list[str]:
        """A runner that is killed holds its lock no more: then hostd clears the host."""
        return ["--lease", f"{CONTAINER_ROOT}/{LOCK_NAME}"] if self._leased else []

    def agent(self, name: str) -> list[Any]:
        own = [self._part(f"private/{name}"), self._part(f"shards/{name}"), self._part("gate")]
        return [*own, self._part(f"nodes/{name}", writable=True)]

    def before(self, make: ServiceMaker) -> dict[str, Any]:
        return {}

    def after(self, make: ServiceMaker) -> dict[str, Any]:
        return {}

    def _part(self, path: str, *, writable: bool = False) -> dict[str, Any]:
        return _bind(f"{self._root}/{path}", f"{CONTAINER_ROOT}/{path}", read_only=not writable)


TOPOLOGY = "/topology/topology.yaml"  # in the init container
SHIPPED = ("mnist-mini", "sensors")  # need no folder of their own


def _sources(plan: Plan) -> list[str]:
    """Files and folders beside the topology that a run is prepared from. Raises TopologyErrors."""
    found = files_of(plan)
    check_names(found)
    return found


class VolumeMounts:
    """Three named volumes; who may read what is decided by the owners of the files in them.

    `run` (plan, credentials, shards, model) is read-only to all but init, `gate` to all but hostd; `nodes` is
    writable, and in it each service's folder is its own.
    """

    def __init__(self, topology: str, output: str) -> None:
        self._topology, self._output = topology, output
        self.volumes = ["run", "nodes", "gate"]
        self.depends: dict[str, Any] = {
            "depends_on": {"init": {"condition": "service_completed_successfully"}}
        }

    def address(self, text: str) -> str:
        """`10.213.0.16` → `${EDGERIG_PREFIX:-10.213.0}.16`, where the subnet is a /24 (others have no such
        prefix).
        """
        head, _, tail = text.rpartition(".")
        return text if "/" in tail and not tail.endswith("/24") else f"${{EDGERIG_PREFIX:-{head}}}.{tail}"

    def broker(self) -> list[Any]:
        return self._all()

    def coordinator(self) -> list[Any]:
        return self._all()

    def agent(self, name: str) -> list[Any]:
        return self._all()

    def hostd(self) -> list[Any]:
        return self._all(gate_writable=True)

    def lease(self) -> list[str]:
        return []

    def before(self, make: ServiceMaker) -> dict[str, Any]:
        plan = make.plan
        command = ["prepare", "--topology", TOPOLOGY, "--run", plan.run, "--root", CONTAINER_ROOT]
        command += ["--subnet", make.address(plan.network.subnet), "--seed", str(plan.seed)]
        volumes = [*_volumes("run", "nodes", "gate"), _bind(self._topology, TOPOLOGY, read_only=True)]
        more: dict[str, Any] = {"command": command, "cap_add": ["CHOWN", "DAC_OVERRIDE", "FOWNER"]}
        # Beside the topology, where a path that leads nowhere in a container is looked for (topology.sources).
        for path in _sources(plan):
            target = str(Path(TOPOLOGY).with_name(Path(path).name))
            volumes.append(_bind(path, target, read_only=True))
        if plan.data.dataset not in SHIPPED and not is_path(plan.data.dataset):
            data = "${EDGERIG_DATA:?set it to the folder with the data set}"
            volumes.append(_bind(data, "/data", read_only=True))
            more["environment"] = {"EDGERIG_DATA": "/data"}
        init = make.helper("init", entrypoint=["python3", "-m", "edgerig"], volumes=volumes, **more)
        return {"init": init}

    def after(self, make: ServiceMaker) -> dict[str, Any]:
        # Docker makes the folder of the report where it is not there yet.
        output = {
            "type": "bind",
            "source": self._output,
            "target": "/out",
            "bind": {"create_host_path": True},
        }
        report = make.helper(
            "report",
            entrypoint=["python3", "-m", "compose.report_service"],
            volumes=[*self._all(), output],
            command=["--root", CONTAINER_ROOT, "--out", "/out"],
            **self.depends,
        )
        return {"report": report}

    def _all(self, *, gate_writable: bool = False) -> list[Any]:
        run, nodes, gate = _volumes("run", "nodes", "gate")
        run["read_only"] = True
        if not gate_writable:
            gate["read_only"] = True
        return [run, nodes, gate]


def _volumes(*names: str) -> list[dict[str, Any]]:
    places = {"run": CONTAINER_ROOT, "nodes": f"{CONTAINER_ROOT}/nodes", "gate": f"{CONTAINER_ROOT}/gate"}
    return [{"type": "volume", "source": name, "target": places[name]} for name in names]
