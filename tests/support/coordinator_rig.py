"""A run of a real coordinator process: a broker, a folder, scripted agents over MQTT."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from support.broker import Broker
from support.mqtt_agent import MqttAgent
from support.rig_root import PARAMETERS, make_root, read_history

from coordinator.audit import audit
from topology.plan import Plan
from wire import messages as m

REPOSITORY = Path(__file__).parents[2]
END_S = 30.0  # a run here takes seconds; this is for a machine that is busy with other things


def until(condition: Callable[[], Any], what: str, seconds: float = END_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


class Rig:
    """One run: a broker, a coordinator process, scripted agents."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.names = [device.name for device in plan.devices]
        self.broker = Broker(folder, ["coordinator", *self.names]).start()
        self.root = make_root(folder / "root", plan, self.broker.passwords)
        self.history = self.root / "nodes" / "coordinator" / "history.jsonl"
        self.agents = [
            MqttAgent(
                name,
                self.broker.passwords[name],
                self.broker.port,
                plan.run,
                parameters=PARAMETERS,
                update=vector_of(name),
            )
            for name in self.names
        ]
        self.process: subprocess.Popen[str] | None = None

    def start(self, *more: str) -> None:
        command = [sys.executable, "-m", "coordinator", "--root", str(self.root), "--mqtt-version", "4"]
        command += ["--broker-host", "127.0.0.1", "--broker-port", str(self.broker.port)]
        command += ["--alive", str(self.folder / "alive"), *more]
        self.process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)

    def connect(self) -> None:
        for agent in self.agents:
            agent.connect()

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(END_S)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in read_history(self.history) if event["event"] == name]

    def seen(self, name: str, count: int = 1) -> Callable[[], bool]:
        return lambda: self.history.exists() and len(self.events(name)) >= count

    def close(self) -> None:
        for agent in self.agents:
            agent.close()
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
            if self.process.stderr is not None:
                self.process.stderr.close()
        self.broker.kill()


def vector_of(name: str) -> Callable[[m.Task], Any]:
    """Every (agent, round) its own update."""

    def make(task: m.Task) -> Any:
        rng = np.random.default_rng([ord(c) for c in name] + [task.round])
        return rng.standard_normal(PARAMETERS).astype(np.float32) * 0.01

    return make


def check_run(rig: Rig, versions: int) -> None:
    result = audit(rig.root)
    assert result.ok, result.problems
    assert result.versions == versions + 1
    for agent in rig.agents:
        assert agent.acks.keys() <= agent.outcomes.keys(), (
            f"{agent.name} never learned what became of its update"
        )
