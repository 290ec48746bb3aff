"""What hostd costs: the service itself, with its delay process and every command it runs, on a fleet that sends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.emulation_rig import RUN, SUBNET, planned_fleet
from benchmarks.link_traffic import frames
from emulation.links.base import LinkEnds
from topology.compile import compile_topology
from topology.plan import Plan, dump_plan
from topology.validate import parse_topology

DEVICES, TOTAL_BIT_S, SECONDS = 20, 20_000_000, 10.0
START_WAIT_S = 180.0
TOPOLOGY = """
name: cost
devices: {{d: {{profile: raspberry-pi-4, count: {devices}, cpus: 0.05, memory: 64 MiB, link: {link}}}}}
data: {{dataset: mnist-mini, samples_per_device: 100}}
model: mlp
training: {{rounds: 1}}
"""


def plan_of(link: str) -> Plan:
    text = TOPOLOGY.format(devices=DEVICES, link=link)
    return compile_topology(parse_topology(text).topology, RUN, subnet=f"{SUBNET}.0/24")


def cost(links: list[str]) -> list[float]:
    """Share of one core, user and kernel, for each of these links (as written in a topology)."""
    plans = [plan_of(link) for link in links]
    with planned_fleet(plans[0]) as made:
        ends = [made.ends(index) for index in range(DEVICES)]
        return [_one(plan, ends) for plan in plans]


def _one(plan: Plan, ends: list[LinkEnds]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "plan.json").write_bytes(dump_plan(plan))
        process = subprocess.Popen([sys.executable, "-m", "emulation", "--root", folder])
        try:
            _await_ready(root / "nodes" / "hostd" / "history.jsonl", process)
            with frames(ends, TOTAL_BIT_S):
                began, used = time.monotonic(), cpu_s(process.pid)
                time.sleep(SECONDS)
                return (cpu_s(process.pid) - used) / (time.monotonic() - began)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _await_ready(history: Path, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_WAIT_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"hostd ended with {process.returncode}")
        if history.exists() and '"ready"' in history.read_text():
            return
        time.sleep(0.2)
    raise RuntimeError(f"hostd was not ready within {START_WAIT_S:.0f} s")


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, of the children it has waited for, and of those that still run."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(int(word) for word in words[11:15]) / os.sysconf("SC_CLK_TCK")
    children = {
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    }
    return own + sum(_or_zero(child) for child in children)


def _or_zero(pid: int) -> float:
    try:
        return cpu_s(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0  # it has ended; what it used is counted with its parent's children by then
