"""Acked updates per second through a real Mosquitto, journal fsynced: python -m benchmarks.broker --json

2,000 connected agents, multiplexed from two processes, each with an update of 20 kB in a closed loop: an agent sends
its next update after the application's ack. The coordinator is the real one (service, core, journal on disk). The limit
it is held against is a bare paho subscriber that publishes one reply per message, with the same broker, the same
clients and the same bytes, measured in turns in the same run.

    ratio_to_replying_subscriber   acked updates/s of the coordinator over replies/s of the bare subscriber
    broker_drops                   what Mosquitto dropped in all of it, and with the coordinator stopped for 60 s while
                                   200 agents are ready

No TLS and no passwords: they would cost both sides the same, and most of the time of both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from compose.broker_config import mosquitto_conf
from coordinator.mqtt import SYS_TOPICS
from wire.codecs import make_chain, uplink_spec

RUN = "run-1"
UPDATE_BYTES = 20_000
PARAMETERS = (UPDATE_BYTES - 64) // 4
PROCESSES = 2
LOAD = [sys.executable, "-m", "benchmarks.mqtt_load"]
WARM_S, WINDOW_S, ROUNDS = 4.0, 10.0, 3
STOPPED_S, STOPPED_AGENTS = 60.0, 200
BUFFER = 200  # updates of a version
NOT_HERE = ("allow_anonymous", "password_file", "acl_file", "cafile", "certfile", "keyfile", "tls_", "require_",
            "use_username", "log_type")  # fmt: skip


def update() -> bytes:
    """An update of 20 kB that decodes: a dense one, stored as it is."""
    vector = np.random.default_rng(1).standard_normal(PARAMETERS).astype(np.float32) * 0.01
    return make_chain(uplink_spec(None, entropy="none")).encode(vector, seed=1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def mosquitto(folder: Path, log: Path) -> Iterator[int]:
    """A broker with the limits of a run; yields its port."""
    port = free_port()
    conf = [line for line in mosquitto_conf(".", port=port, bind="127.0.0.1").splitlines()
            if not line.startswith(NOT_HERE)]  # fmt: skip
    path = folder / "mosquitto.conf"
    path.write_text("\n".join([*conf, "allow_anonymous true", "log_type error", "log_type warning", ""]))
    with (
        open(log, "ab") as out,
        subprocess.Popen(["mosquitto", "-c", path], stdout=out, stderr=out) as process,
    ):
        try:
            wait_for_port(port, process)
            yield port
        finally:
            process.terminate()


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    raise SystemExit("broker: mosquitto does not come up (is it installed?)")


class Drops:
    """Mosquitto's own count of dropped messages."""

    def __init__(self, port: int) -> None:
        (self._topic,) = [topic for topic, name in SYS_TOPICS.items() if name == "dropped"]
        self._value: int | None = None
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="drops")
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.subscribe(self._topic)
        self._client.loop_start()

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self._value = int(message.payload)

    def read(self) -> int:
        """After the broker has said it anew: it does every five seconds."""
        self._value = None
        deadline = time.monotonic() + 15
        while self._value is None and time.monotonic() < deadline:
            time.sleep(0.1)
        # It says a figure again only when it has changed, so silence means that it did not.
        return self._value or 0

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Fleet:
    """The load's processes."""

    def __init__(self, port: int, agents: int, mode: str, payload: Path) -> None:
        share = agents // PROCESSES
        self._processes = [
            subprocess.Popen(
                [*LOAD, str(port), RUN, str(part * share), str(share), mode, str(payload)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for part in range(PROCESSES)
        ]
        for process in self._processes:
            self._line(process)

    @staticmethod
    def _line(process: subprocess.Popen[str]) -> dict[str, float]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("broker: a process of the load ended, see above")
        said: dict[str, float] = json.loads(line)
        return said

    def tell(self, command: str) -> list[dict[str, float]]:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(command + "\n")
            process.stdin.flush()
        return [self._line(process) for process in self._processes]

    def acked(self) -> int:
        return int(sum(said["acked"] for said in self.tell("report")))

    def rate(self, warm_s: float, window_s: float) -> float:
        """Acks per second at the agents, over the window."""
        time.sleep(warm_s)
        before, began = self.acked(), time.monotonic()
        time.sleep(window_s)
        return (self.acked() - before) / (time.monotonic() - began)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


# MQTT 5 as the coordinator.
BARE = """
import sys
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
client = paho.Client(CallbackAPIVersion.VERSION2, client_id="bare", protocol=MQTTProtocolVersion.MQTTv5)
def on_message(client, data, message):
    client.publish(f"rig/run-1/down/{message.topic.split('/')[3]}/ack", b"ack", qos=1)
client.on_message = on_message
client.max_queued_messages_set(0)
client.connect("127.0.0.1", int(sys.argv[1]))
client.subscribe("rig/run-1/up/#", qos=1)
client.loop_forever()
"""


@contextlib.contextmanager
def running(command: list[str], log: Path, settle_s: float) -> Iterator[subprocess.Popen[bytes]]:
    with open(log, "ab") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            time.sleep(settle_s)
            if process.poll() is not None:
                raise SystemExit(f"broker: {command[:4]} ended:\n{log.read_text()[-2000:]}")
            yield process
        finally:
            process.kill()


class Rate(NamedTuple):
    per_s: float
    drops: int


def bare(folder: Path, agents: int, payload: Path) -> Rate:
    log = folder / "bare.log"
    with mosquitto(folder, log) as port, running([sys.executable, "-c", BARE, str(port)], log, 1.0):
        return _measured(port, agents, "bare", payload)


def _measured(port: int, agents: int, mode: str, payload: Path) -> Rate:
    drops, fleet = Drops(port), Fleet(port, agents, mode, payload)
    try:
        fleet.tell("start")
        rate = fleet.rate(WARM_S, WINDOW_S)
        return Rate(rate, drops.read())
    finally:
        fleet.close()
        drops.close()


def coordinator(
    folder: Path, port: int, root: Path
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "coordinator", "--root", str(root), "--broker-host", "127.0.0.1"]
    command += ["--broker-port", str(port)]
    return running(command, folder / "coordinator.log", 4.0)


def ours(folder: Path, agents: int, payload: Path) -> Rate:
    with tempfile.TemporaryDirectory(dir=folder) as run, mosquitto(folder, folder / "broker.log") as port:
        root = make_root(Path(run), agents)
        with coordinator(folder, port, root):
            return _measured(port, agents, "agent", payload)


def make_root(root: Path, agents: int) -> Path:
    """A run's folder: a linear model of as many parameters as the update has, one round after the other."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support import rig_root

    rig_root.FEATURES, rig_root.CLASSES = PARAMETERS // 4, 4
    rig_root.PARAMETERS = PARAMETERS // 4 * 4
    plan = rig_root.make_plan(
        agents,
        policy={
            "kind": "buffered",
            "concurrency": agents,
            "buffer": min(BUFFER, agents),
            "deadline_s": 300.0,
        },
        training={"rounds": 100_000},
    )
    return rig_root.make_root(root, plan, {"coordinator": "none"})


def stopped(folder: Path, payload: Path) -> int:
    """Drops while the coordinator is stopped for a minute with 200 agents ready to send."""
    with tempfile.TemporaryDirectory(dir=folder) as run, mosquitto(folder, folder / "broker.log") as port:
        root = make_root(Path(run), STOPPED_AGENTS)
        with coordinator(folder, port, root) as process:
            drops, fleet = Drops(port), Fleet(port, STOPPED_AGENTS, "agent", payload)
            try:
                fleet.tell("start")
                time.sleep(2.0)
                os.kill(process.pid, signal.SIGSTOP)
                before = fleet.acked()
                time.sleep(STOPPED_S)
                os.kill(process.pid, signal.SIGCONT)
                deadline = time.monotonic() + 60
                while fleet.acked() < before + 2 * STOPPED_AGENTS and time.monotonic() < deadline:
                    time.sleep(0.5)
                if fleet.acked() < before + 2 * STOPPED_AGENTS:
                    raise SystemExit("broker: the agents were not served after the stop")
                return drops.read()
            finally:
                fleet.close()
                drops.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="nothing but the figures")
    parser.add_argument("--agents", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--no-stop", action="store_true", help="leave the minute without a coordinator out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgerig-broker-") as name:
        folder = Path(name)
        payload = folder / "update"
        payload.write_bytes(update())
        limits, acks = [], []
        for _ in range(args.rounds):
            limits.append(bare(folder, args.agents, payload))
            acks.append(ours(folder, args.agents, payload))
            if not args.json:
                print(f"bare {limits[-1]}, ours {acks[-1]}", file=sys.stderr)
        while_stopped = 0 if args.no_stop else stopped(folder, payload)
    ratios = [mine.per_s / limit.per_s for mine, limit in zip(acks, limits, strict=True)]
    figures = {
        "ratio_to_replying_subscriber": round(statistics.median(ratios), 3),
        "broker_drops": max(rate.drops for rate in acks) + while_stopped,
        "broker_drops_while_stopped": while_stopped,
        "acked_updates_per_s": round(statistics.median(rate.per_s for rate in acks), 1),
        "replies_per_s": round(statistics.median(rate.per_s for rate in limits), 1),
        "agents": args.agents,
        "update_bytes": len(update()),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
