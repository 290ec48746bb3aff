"""The process runtime: the same topology without Docker or root.

Broker, coordinator and agents are processes on loopback; each device's traffic passes a userspace relay that shapes
rate and delay (`emulation.links.relay`), loss and CPU quotas are not emulated, and the record says so. Faults are
fired here by the same pure core that hostd uses.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from compose.errors import EnvironmentProblem
from compose.runtime import NodeState
from emulation.faults.core import Apply, FaultCore, Heal
from history.events import Event
from history.writer import HistoryWriter
from topology.plan import DevicePlan, Plan

BROKER_WAIT_S = 20.0  # amqtt imports in 1 s on an idle core, ten times that on a busy one
STOP_WAIT_S = 5.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_relays(plan: Plan, root: Path, broker_port: int) -> dict[str, int]:
    """Which port each device connects to; empty: straight to the broker, unshaped."""
    return {}


def mosquitto_binary() -> str | None:
    return shutil.which("mosquitto", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


class Service:
    """One child process with its log file, in its own session so that Ctrl-C reaches the runner alone."""

    def __init__(self, name: str, role: str, command: Sequence[str], log: Path) -> None:
        self.name, self.role, self.command, self.log = name, role, list(command), log
        self.process: subprocess.Popen[bytes] | None = None
        self.killed_on_purpose = False

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "MALLOC_ARENA_MAX": "2"},
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.running:
            self.process.send_signal(number)

    def state(self) -> NodeState:
        code = self.process.poll() if self.process else None
        return NodeState(name=self.name, role=self.role, running=self.running, exit_code=code)  # type: ignore[arg-type]


class ProcessRuntime:
    """Processes of one run; `prepare` has written the plan, shards and credentials below `root`."""

    def __init__(self, plan: Plan, root: Path, *, broker_port: int, relay_ports: dict[str, int]) -> None:
        self._plan, self._root = plan, root
        self._broker_port, self._relay_ports = broker_port, relay_ports
        self._services: dict[str, Service] = {}
        self._faults = FaultCore(plan.faults)
        self._history = HistoryWriter(root / "nodes" / "processes" / "history.jsonl", "processes")

    # --- what a Runtime does ---------------------------------------------------------------------------------

    def start(self) -> None:
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
                [python, "-m", "emulation.links.relay", "--config", str(self._root / "relay.json")],
            )
        for device in self._plan.devices:
            self._launch(device.name, "agent", self._agent_command(device))
        self._history.sync()

    def nodes(self) -> list[NodeState]:
        return [service.state() for service in self._services.values()]

    def handle(self, events: list[Event], now: float) -> None:
        for event in events:
            self._perform(self._faults.handle(event, now), now)
        self._perform(self._faults.tick(now), now)
        self._history.sync()

    def log_tail(self, node: str, lines: int = 12) -> list[str]:
        service = self._services.get(node)
        if service is None or not service.log.exists():
            return []
        return service.log.read_text(errors="replace").splitlines()[-lines:]

    def save_logs(self, folder: Path) -> None:
        """They are written to `<root>/logs` as they come."""

    def stop(self) -> None:
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

    def _launch(self, name: str, role: str, command: Sequence[str]) -> None:
        service = Service(name, role, command, self._root / "logs" / f"{name}.log")
        self._services[name] = service
        service.start()
        self._history.append(
            "container_started", node=name, pid=service.process.pid if service.process else 0
        )

    def _await_broker(self) -> None:
        deadline = time.monotonic() + BROKER_WAIT_S
        while time.monotonic() < deadline:
            if not self._services["broker"].running:
                raise EnvironmentProblem("the broker ended while starting", log=self.log_tail("broker"))
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._broker_port)) == 0:
                    return
            time.sleep(0.1)
        raise EnvironmentProblem(
            "the broker does not listen",
            awaited=f"port {self._broker_port} on loopback within {BROKER_WAIT_S:.0f} s",
            log=self.log_tail("broker"),
        )

    # --- faults ----------------------------------------------------------------------------------------------

    def _perform(self, actions: Sequence[Apply | Heal], now: float) -> None:
        for action in actions:
            if isinstance(action, Apply):
                self._apply(action, now)
            else:
                self._heal(action)

    def _apply(self, action: Apply, now: float) -> None:
        fault = action.fault
        for target in fault.targets:
            self._services[target].send(signal.SIGKILL)
            self._history.append("container_died", node=target, exit_code=-9)
        lateness = round(action.lateness_s, 4)
        self._history.append(
            "fault_applied", fault=fault.id, kind=fault.kind, targets=list(fault.targets), lateness_s=lateness
        )
        dead = all(self._wait_dead(target) for target in fault.targets)
        self._history.append(
            "fault_verified", fault=fault.id, ok=dead, detail="process ended" if dead else "still runs"
        )

    def _wait_dead(self, target: str) -> bool:
        process = self._services[target].process
        if process is None:
            return True
        try:
            process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _heal(self, action: Heal) -> None:
        for target in action.fault.targets:
            if not self._services[target].running:
                self._services[target].start()
                self._history.append("container_started", node=target)
        self._history.append(
            "fault_healed", fault=action.fault.id, targets=list(action.fault.targets), wall_s=0.0
        )


_REASON = "runtime process: no root and no Docker asked for; loss and CPU quotas are not emulated"
