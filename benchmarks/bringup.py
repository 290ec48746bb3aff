"""How long a fleet takes to be there, against idle containers: python -m benchmarks.bringup [--json]

Twenty devices of a real run: started, links applied and read back, quotas read back, gate passed, connected over TLS
and known to the coordinator. Beside it, in the same minutes, `docker compose up -d` of twenty idle containers of the
same image with the same limits. Medians of `--repeat`, alternating.

bringup_ratio       joined over idle, without what measuring takes: a measurement is as long as it is asked to be. Left
                    out are `link_measure_s` (probes and overload on all forty directions) and `quota_measure_s` (all
                    devices burn); that links and quotas are written and read back is in
measured_ratio      the same with the links' measurement in: what a user waits for, but for the quotas

Needs Docker and the images (`make setup`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from compose.docker_runtime import DockerRuntime
from compose.services import IMAGES
from compose.session import create, remove_secrets
from history.reader import Follower
from topology.validate import load_topology

DEVICES = 20
CPUS = 0.075  # twenty of them are the 1.5 cores that a host of two gives
MEMORY = 256 << 20
JOIN_S_MAX = 180.0
POLL_S = 0.05
LABEL = f"bringup{os.getpid()}"

TOPOLOGY = f"""
name: bringup
devices:
  d:
    profile: raspberry-pi-zero-2w
    count: {DEVICES}
    cpus: {CPUS}
    link: {{up: 10 Mbit/s, down: 20 Mbit/s, delay: 20 ms}}
data: {{dataset: mnist-mini, samples_per_device: 100}}
model: mlp
training: {{rounds: 1}}
policy: {{kind: synchronous, cohort: {DEVICES}, deadline: 60 s, quorum: 0.5}}
tolerance: {{rate: 20 %, delay: 50 %, cpu: 20 %}}
"""


def idle_s(folder: Path) -> float:
    """`docker compose up -d` of idle containers with the devices' limits."""
    service = {
        "image": IMAGES["agent"],
        "entrypoint": ["sleep", "600"],
        "init": True,
        "cpus": CPUS,
        "mem_limit": MEMORY,
        "networks": ["data"],
        "stop_grace_period": "0s",
        "pull_policy": "never",
    }
    document = {
        "name": LABEL,
        "services": {f"idle{i}": service for i in range(DEVICES)},
        "networks": {"data": {"internal": True}},
    }
    file = folder / "idle.yaml"
    file.write_text(yaml.safe_dump(document))
    compose = ["docker", "compose", "-f", str(file)]
    try:
        began = time.monotonic()
        subprocess.run([*compose, "up", "-d"], check=True, capture_output=True)
        return time.monotonic() - began
    finally:
        subprocess.run([*compose, "down", "-t", "0", "--volumes"], check=False, capture_output=True)


def joined_s(folder: Path) -> dict[str, float]:
    """From the start of `docker compose up -d` to the last device's hello, and what happened in between."""
    source = folder / "bringup.yaml"
    source.write_text(TOPOLOGY)
    session = create(load_topology(source), runtime="docker", runs=folder / "runs", data_dir=None)
    runtime = DockerRuntime(session.plan, session.root, build=False)
    try:
        began = time.monotonic()
        runtime.start()
        started = time.monotonic()
        moments = _watch(Follower(session.root), began)
    finally:
        runtime.stop()
        remove_secrets(session.root)
        session.lock.release()
    link_s, quota_s = moments["links"] - moments["applied"], moments["quotas"] - moments["links"]
    return {
        "joined_s": moments["joined"] - began - link_s - quota_s,
        "joined_measured_s": moments["joined"] - began - quota_s,
        "compose_s": started - began,
        "links_applied_s": moments["applied"] - began,
        "link_measure_s": link_s,
        "quota_measure_s": quota_s,
        "after_gate_s": moments["joined"] - moments["quotas"],
    }


def _watch(follower: Follower, began: float) -> dict[str, float]:
    """Moments (monotonic, of the events): last link read back, last one measured, first quota verified, last device
    online.
    """
    online: set[str] = set()
    moments: dict[str, float] = {}
    while time.monotonic() - began < JOIN_S_MAX:
        for event in follower.poll():
            if event.event == "link_applied":
                moments["applied"] = event.mono_s
            elif event.event == "link_verified":
                moments["links"] = event.mono_s
            elif event.event == "cpu_verified":
                moments.setdefault("quotas", event.mono_s)
            elif event.event == "agent_online":
                online.add(str(event.get("agent")))
                if len(online) == DEVICES:
                    return {**moments, "joined": event.mono_s}
        time.sleep(POLL_S)
    raise TimeoutError(f"{len(online)} of {DEVICES} devices joined within {JOIN_S_MAX:.0f} s")


def measure(repeat: int, say: Callable[[str], None]) -> dict[str, Any]:
    idle: list[float] = []
    joined: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        for turn in range(repeat):
            idle.append(idle_s(Path(name)))
            joined.append(joined_s(Path(name)))
            say(f"{turn + 1} of {repeat}: idle {idle[-1]:.1f} s, joined {joined[-1]['joined_s']:.1f} s")
    medians = {key: round(statistics.median(one[key] for one in joined), 2) for key in joined[0]}
    idle_median = statistics.median(idle)
    return {
        "bringup_ratio": round(medians["joined_s"] / idle_median, 3),
        "measured_ratio": round(medians["joined_measured_s"] / idle_median, 3),
        "devices": DEVICES,
        "idle_s": round(idle_median, 2),
        **medians,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--repeat", type=int, default=3, help="medians of so many")
    options = parser.parse_args()
    found = measure(options.repeat, lambda text: print(text, file=sys.stderr, flush=True))
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print(
            f"{found['joined_s']} s until {DEVICES} devices joined, {found['bringup_ratio']} × idle containers"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
