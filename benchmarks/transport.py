"""An update over a bad link: python -m benchmarks.transport [--json] [--repeats 3]

The real agent and a real Mosquitto over links of 1 Mbit/s, 100 ms each way and 2 % loss in network namespaces (root).
A 6.6 MB update goes up while its TCP connection is reset three times. Several devices at once, each on its own link,
so the runs under both congestion controls are interleaved. Beside them devices behind a bloated queue of two seconds,
since that is where heartbeats starve.

`ideal_ratio`: the time from the coordinator's first sight of the offer to the whole update, over payload bits /
(rate · 1448/1514) + one round trip; the median of the bbr devices. `heartbeat_p99_s`: the delay of numbered QoS 0
heartbeats while the update is under way, the worst group. The `cubic` figures stand beside them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from benchmarks.namespace_rig import Rig, namespaces
from benchmarks.transport_ends import RUN
from compose.broker_config import mosquitto_conf
from compose.credentials import RunCredentials, make_credentials, write_private
from coordinator.config import link_budget
from emulation.links import REGISTRY
from emulation.links.base import Backend, LinkEnds
from emulation.links.cut import drop_program
from topology.plan import AgentConfig, DevicePlan, Link, Shape
from wire.topics import COORDINATOR

RATE_BIT_S, DELAY_S, LOSS = 1_000_000, 0.1, 0.02
BLOATED_S = 2.0
PORT = 8883
WAIT_S = 300.0  # four times the ideal: then a device is said not to have arrived
RESET_S = 0.1  # shorter than the agent waits before it connects again, so one connection dies and no attempt
INSTALL = "install mosquitto (apt-get install mosquitto, or your system's package); its service need not run"


class Device(NamedTuple):
    name: str
    congestion: str
    bloated: bool

    @property
    def group(self) -> str:
        return f"{self.congestion}{'_bloated' if self.bloated else ''}"

    @property
    def link(self) -> Link:
        queue = int(RATE_BIT_S / 8 * BLOATED_S) if self.bloated else None
        shape = Shape(rate_bit_s=RATE_BIT_S, delay_s=DELAY_S, loss=LOSS, queue_bytes=queue)
        return Link(name="bad", up=shape, down=shape)


def devices(repeats: int) -> list[Device]:
    kinds = [(congestion, False) for congestion in ("bbr", "cubic")] * repeats
    kinds += [("bbr", True), ("cubic", True)]
    return [Device(f"d{index}", *kind) for index, kind in enumerate(kinds)]


def missing() -> str:
    """What this machine lacks, in words, or an empty string."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "install iproute2 (ip, tc)"
    if mosquitto() is None:
        return INSTALL
    if not any(backend.probe().ok for backend in backends()):
        said = (backend.probe() for backend in backends())
        return "no link backend works here: " + "; ".join(f"{p.backend}: {p.reason}" for p in said)
    available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    lacking = {"bbr", "cubic"} - set(available)
    return f"the kernel has no {', '.join(sorted(lacking))}: modprobe tcp_bbr" if lacking else ""


def backends() -> list[Backend]:
    """Those that can lose packets, best first."""
    return [REGISTRY[name]() for name in ("netem", "nfqueue")]


def mosquitto() -> str | None:
    return shutil.which("mosquitto", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


# --- processes -----------------------------------------------------------------------------------------------------


@contextmanager
def process(netns: str, argv: list[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    with open(log, "w") as errors:
        started = subprocess.Popen(
            ["ip", "netns", "exec", netns, *argv], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(10.0)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def write_folders(root: Path, rig: Rig, fleet: list[Device]) -> None:
    names = [device.name for device in fleet]
    made = make_credentials(RUN, names, ["broker"], [rig.broker_address, "127.0.0.1"])
    conf = mosquitto_conf(str(root / "broker"), port=PORT, user="root")
    write_private(root / "broker", {**made.broker, "mosquitto.conf": conf.encode()}, os.geteuid())
    given = {"port": PORT, "wait_s": WAIT_S, "budgets": {device.name: budget_of(device) for device in fleet}}
    files = {**client_files(made, COORDINATOR), "coordinator.json": json.dumps(given).encode()}
    write_private(root / COORDINATOR, files, os.geteuid())
    for device in fleet:
        config = AgentConfig(
            run=RUN, agent=device.name, broker_host=rig.broker_address, broker_port=PORT, username=device.name,
            password_file="password", ca_file="ca.crt", shard="", state="state", uplink_bit_s=RATE_BIT_S,
            downlink_bit_s=RATE_BIT_S, rtt_s=2 * DELAY_S, congestion=device.congestion,
        )  # fmt: skip
        text = yaml.safe_dump(msgspec.to_builtins(config)).encode()
        write_private(
            root / device.name, {**client_files(made, device.name), "agent.yaml": text}, os.geteuid()
        )
        (root / device.name / "state").mkdir()


def client_files(made: RunCredentials, client: str) -> dict[str, bytes]:
    return {"password": made.passwords[client].encode(), "ca.crt": made.ca}


def budget_of(device: Device) -> tuple[int, int]:
    plan = DevicePlan(
        name=device.name, group="d", index=0, profile="p", cpus=1, memory_bytes=1, link=device.link
    )
    budget = link_budget(plan)
    return budget.chunk_bytes, budget.window_bytes


# --- one run -------------------------------------------------------------------------------------------------------


def reset_connection(ends: LinkEnds) -> None:
    """The device's next packet to the broker is answered by a reset, as by a NAT that forgot the connection."""
    rule = ["OUTPUT", "-p", "tcp", "--dport", str(PORT), "-j", "REJECT", "--reject-with", "tcp-reset"]
    ends.device_ns.run(drop_program(), "-w", "5", "-I", *rule)
    time.sleep(RESET_S)
    ends.device_ns.run(drop_program(), "-w", "5", "-D", *rule)


def measure(fleet: list[Device]) -> dict[str, dict[str, Any]]:
    """What both ends saw, by device."""
    backend = next(backend for backend in backends() if backend.probe().ok)
    found: dict[str, dict[str, Any]] = {device.name: {"resets": 0} for device in fleet}
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rig = stack.enter_context(namespaces(len(fleet)))
        write_folders(root, rig, fleet)
        ends = {device.name: rig.ends(index) for index, device in enumerate(fleet)}
        backend.start()
        stack.callback(backend.stop)
        for device in fleet:
            backend.apply(ends[device.name], device.link)
            wrong = backend.verify(ends[device.name], device.link).mismatches
            if wrong:
                raise RuntimeError(f"the link of {device.name} is not what was asked: {wrong}")
        broker = [str(mosquitto()), "-c", str(root / "broker" / "mosquitto.conf")]
        stack.enter_context(process(rig.broker, broker, root / "broker.log"))
        python = [sys.executable, "-c", "from benchmarks.transport_ends import main; main()"]
        listening = stack.enter_context(
            process(rig.broker, [*python, "coordinator", str(root / COORDINATOR)], root / "coordinator.log")
        )
        agents = [
            stack.enter_context(
                process(
                    rig.devices[index],
                    [*python, "agent", str(root / device.name)],
                    root / f"{device.name}.log",
                )
            )
            for index, device in enumerate(fleet)
        ]
        hear(listening, ends, found)
        for device, agent in zip(fleet, agents, strict=True):
            said, _ = agent.communicate(timeout=30.0)
            found[device.name] |= json.loads(said.splitlines()[-1])
            found[device.name]["disconnects"] = disconnects(root / device.name / "state" / "history.jsonl")
    return found


def hear(
    listening: subprocess.Popen[str], ends: dict[str, LinkEnds], found: dict[str, dict[str, Any]]
) -> None:
    """Do what the coordinator's words ask for, until it has ended."""
    assert listening.stdout is not None
    for line in listening.stdout:
        said = json.loads(line)
        if (name := said.get("disconnect")) is not None:
            found[name]["resets"] += 1
            threading.Thread(target=reset_connection, args=(ends[name],)).start()
        elif "arrived" in said:
            found[said["arrived"]] |= said
        elif "lane" in said:
            found[said["lane"]]["heard"] = {int(beat): at for beat, at in said["beats"].items()}


def disconnects(history: Path) -> int:
    return sum('"event":"disconnected"' in line for line in history.read_text().splitlines())


# --- figures -------------------------------------------------------------------------------------------------------


def ideal_s(payload_bytes: int) -> float:
    return payload_bytes * 8 / (RATE_BIT_S * 1448 / 1514) + 2 * DELAY_S


def delays(one: dict[str, Any]) -> list[float]:
    """Of the heartbeats that were under way before the update had arrived and were heard."""
    beats = one["beats"]
    return [at - beats[beat] for beat, at in one["heard"].items() if not math.isnan(beats[beat])]


def row(device: Device, one: dict[str, Any]) -> dict[str, Any]:
    waits = sorted(delays(one))
    sent = sum(not math.isnan(beat) for beat in one["beats"])
    return {
        "group": device.group,
        "ratio": round(one["wall_s"] / ideal_s(one["bytes"]), 4),
        "wall_s": round(one["wall_s"], 2),
        "bytes": one["bytes"],
        "chunk_bytes": one["chunk_bytes"],
        **one["traffic"],
        "disconnects": one["disconnects"],
        "heartbeats": sent,
        "heartbeats_lost": sent - len(waits),
        "heartbeat_p50_s": round(percentile(waits, 0.5), 3),
        "heartbeat_p99_s": round(percentile(waits, 0.99), 3),
    }


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[math.ceil(share * len(values)) - 1]


def figures(fleet: list[Device], found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    late = [device.name for device in fleet if "wall_s" not in found[device.name]]
    if late:
        raise RuntimeError(f"no update of {', '.join(late)} within {WAIT_S:.0f} s")
    rows = [row(device, found[device.name]) for device in fleet]
    groups = {
        group: [d.name for d in fleet if d.group == group] for group in dict.fromkeys(d.group for d in fleet)
    }
    heart = {
        group: round(percentile([wait for name in names for wait in delays(found[name])], 0.99), 3)
        for group, names in groups.items()
    }

    def ratio(congestion: str) -> float:
        return round(statistics.median(one["ratio"] for one in rows if one["group"] == congestion), 4)

    return {
        "ideal_ratio": ratio("bbr"),
        "heartbeat_p99_s": max(heart["bbr"], heart["bbr_bloated"]),
        "cubic": {
            "ideal_ratio": ratio("cubic"),
            "heartbeat_p99_s": max(heart["cubic"], heart["cubic_bloated"]),
        },
        "heartbeat_p99_s_by_group": heart,
        "ideal_s": round(ideal_s(rows[0]["bytes"]), 2),
        "devices": rows,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--repeats", type=int, default=3, help="devices under each congestion control")
    given = parser.parse_args()
    lacking = missing()
    if lacking:
        print(f"benchmarks.transport: {lacking}", file=sys.stderr)
        return 3
    fleet = devices(given.repeats)
    found = figures(fleet, measure(fleet))
    if given.json:
        print(json.dumps(found, indent=1))
        return 0
    for key, value in found.items():
        for line in value if isinstance(value, list) else [value]:
            print(f"{key:26} {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
