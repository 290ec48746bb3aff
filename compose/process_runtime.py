"""The process runtime: the same topology without Docker or root.

Broker, coordinator and agents are processes on loopback; each device's traffic passes a userspace relay that shapes
rate, delay and jitter (`emulation.links.relay_process`); loss and CPU quotas are not emulated, and the record says so.
Faults are fired here by the same pure core that hostd uses.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec

from compose import signals
from compose.errors import EnvironmentProblem
from compose.process_faults import FaultExecutor, refusal
from compose.process_service import STOP_WAIT_S, Service
from compose.runtime import NodeState, Role
from emulation.control import ControlServer
from emulation.faults.by_hand import ByHand
from emulation.faults.core import FaultCore
from emulation.links.relay_process import RelayConfig, RelayLink
from emulation.listening import LOOPBACK, holds, listeners
from history.events import Event
from history.writer import HistoryWriter
from topology.plan import DevicePlan, Plan
from wire.topics import COORDINATOR

BROKER_WAIT_S = 20.0  # amqtt imports in 1 s on an idle core, ten times that on a busy one
RELAY_FILE = "relay.json"


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody holds. All are held until the last is found, or the kernel gives one twice."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in sockets]


def choose_ports(plan: Plan) -> tuple[int, dict[str, int]]:
    """The broker's port, and the port of its relay for each device whose link is shaped."""
    relayed = [d.name for d in plan.devices if d.link.up.shaped or d.link.down.shaped]
    broker, *relays = free_ports(1 + len(relayed))
    return broker, dict(zip(relayed, relays, strict=True))


def write_relays(plan: Plan, root: Path, broker_port: int, ports: Mapping[str, int]) -> None:
    """Write `relay.json`: a relay for each shaped link, listening where its device connects to."""
    links = tuple(
        RelayLink(
            device=device.name, listen_port=ports[device.name], up=device.link.up, down=device.link.down
        )
        for device in plan.devices
        if device.name in ports
    )
    history = root / "nodes" / "relay" / "history.jsonl"
    config = RelayConfig(upstream_port=broker_port, links=links, seed=plan.seed, history=str(history))
    (root / RELAY_FILE).write_bytes(msgspec.json.encode(config))


def mosquitto_binary() -> str | None:
    return shutil.which("mosquitto", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


class ProcessRuntime:
    """Processes of one run; `prepare` has written the plan, shards and credentials below `root`."""

    def __init__(
        self,
        plan: Plan,
        root: Path,
        *,
        broker_port: int,
        relay_ports: dict[str, int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan, self._root, self._clock = plan, root, clock
        self._broker_port, self._relay_ports = broker_port, relay_ports
        self._services: dict[str, Service] = {}
        self._faults = FaultCore(plan.faults)
        self._history = HistoryWriter(root / "nodes" / "processes" / "history.jsonl", "processes")
        self._executor = FaultExecutor(self._services, self._history, root / "nodes")
        self._by_hand = ByHand(
            ControlServer(root / "nodes" / "processes"),
            self._faults,
            self._history,
            refuse=partial(refusal, self._services),
            arm=self._executor.arm,
        )
        self._executor.on_seen = self._by_hand.settled
        self._stopped = False

    # --- what a Runtime does ---------------------------------------------------------------------------------

    def start(self) -> None:
        self._refuse_taken_ports()
        self._history.append(
            "probed", backend="relay" if self._relay_ports else "none", reason=_REASON, checks={}
        )
        self._launch("broker", "broker", self._broker_command())
        self._await_broker()
        self._launch("coordinator", "coordinator", self._coordinator_command())
        if self._relay_ports:
            python = sys.executable
            self._launch(
                "relay",
                "relay",
                [python, "-m", "emulation.links.relay_process", "--config", str(self._root / RELAY_FILE)],
            )
        for device in self._plan.devices:
            self._launch(device.name, "agent", self._agent_command(device))
        self._executor.arm(self._faults.armed)
        self._history.sync()

    def nodes(self) -> list[NodeState]:
        return [service.state() for service in self._services.values()]

    def facts(self) -> dict[str, object]:
        broker = mosquitto_binary() or "amqtt"
        return {"services": list(self._services), "broker": broker, "python": sys.version.split()[0]}

    def handle(self, events: list[Event], now: float) -> None:
        for event in (event for event in events if event.node == COORDINATOR):
            self._executor.perform(self._faults.handle(event, now), now)
        self._executor.perform(self._by_hand.poll(now) + self._faults.tick(now), now)
        self._executor.tick(now)
        self._history.sync()

    def log_tail(self, node: str, lines: int = 12) -> list[str]:
        service = self._services.get(node)
        if service is None or not service.log.exists():
            return []
        return service.log.read_text(errors="replace").splitlines()[-lines:]

    def save_logs(self, folder: Path) -> None:
        """They are written to `<root>/logs` as they come."""

    def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        self._by_hand.close()
        self._executor.close(self._faults.finish(), self._clock())
        for service in self._services.values():
            service.send(signal.SIGTERM)
        deadline = time.monotonic() + STOP_WAIT_S
        for service in self._services.values():
            if service.process is None:
                continue
            try:
                service.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                service.process.kill()
                service.process.wait(STOP_WAIT_S)
        self._history.close()

    def left(self) -> list[str]:
        return [f"process {name}" for name, service in self._services.items() if service.running]

    # --- parts -----------------------------------------------------------------------------------------------

    @staticmethod
    def mqtt_version() -> int:
        """amqtt speaks 3.1.1, mosquitto 5."""
        return 5 if mosquitto_binary() else 4

    def _broker_command(self) -> list[str]:
        private = self._root / "private" / "broker"
        binary = mosquitto_binary()
        if binary:
            return [binary, "-c", str(private / "mosquitto.conf")]
        return [
            sys.executable,
            "-m",
            "compose.python_broker",
            "--private",
            str(private),
            "--port",
            str(self._broker_port),
        ]

    def _coordinator_command(self) -> list[str]:
        command = [sys.executable, "-m", "coordinator", "--root", str(self._root)]
        command += ["--broker-host", "127.0.0.1", "--broker-port", str(self._broker_port)]
        return [*command, "--mqtt-version", str(self.mqtt_version())]

    def _agent_command(self, device: DevicePlan) -> list[str]:
        config = self._root / "private" / device.name / "agent.yaml"
        return [sys.executable, "-m", "edge_agent", "--config", str(config)]

    def _launch(self, name: str, role: Role, command: Sequence[str]) -> None:
        service = Service(name, role, command, self._root / "logs" / f"{name}.log")
        self._services[name] = service
        service.start()
        self._history.append("container_started", node=name, pid=service.pid)

    def _await_broker(self) -> None:
        deadline = time.monotonic() + BROKER_WAIT_S
        while time.monotonic() < deadline:
            if self._broker_listens():  # first, for a broker whose port is taken ends
                return
            if not self._services["broker"].running:
                raise EnvironmentProblem("the broker ended while starting", log=self.log_tail("broker"))
            signals.check()
            time.sleep(0.1)
        raise EnvironmentProblem(
            "the broker does not listen",
            awaited=f"port {self._broker_port} on loopback within {BROKER_WAIT_S:.0f} s",
            log=self.log_tail("broker"),
        )

    def _broker_listens(self) -> bool:
        """Whether it is ours: another program's port would take our agents' passwords and never answer them."""
        found = listeners(os.getpid(), self._broker_port, LOOPBACK)
        ours = holds(self._services["broker"].pid, found)
        if found and not ours:
            raise _taken(self._broker_port, "this run's broker")
        return ours

    def _refuse_taken_ports(self) -> None:
        """Before anything starts: a relay that finds its port taken ends, and its device would wait for nobody."""
        for device, port in self._relay_ports.items():
            if listeners(os.getpid(), port, LOOPBACK):
                raise _taken(port, f"the relay of {device}")


def _taken(port: int, user: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"port {port} of loopback, meant for {user}, is held by another program",
        hint="run it again: every run looks for ports that are free",
    )


_REASON = "runtime process: no root and no Docker asked for; loss and CPU quotas are not emulated"
