"""What this kernel, Docker and cgroup can and cannot do: for hostd's record and for `edgerig doctor`."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

from emulation import cgroup
from emulation.docker_host import DockerHost, DockerProblem
from emulation.links import REGISTRY
from emulation.links.base import Probe


@dataclass(frozen=True)
class HostProbe:
    """`backend` is the best link backend that works; `checks` everything found out, by name, in words."""

    kernel: str
    backend: str
    reason: str
    docker: str
    cgroup: int
    checks: dict[str, str] = field(default_factory=dict)


def probe(run: str = "") -> HostProbe:
    """Try everything; what fails is said in `checks`, nothing is raised."""
    probes = [make().probe() for make in REGISTRY.values()]
    best = next(found for found in probes if found.ok)
    version, docker_says = _docker(run)
    checks = {f"link backend {found.backend}": _say(found) for found in probes}
    checks |= {
        "docker": docker_says,
        "cgroup": _cgroup(),
        "cpu quota": _cpu_quota(),
        "congestion control": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "congestion controls available": _read("/proc/sys/net/ipv4/tcp_available_congestion_control"),
        "default qdisc": _read("/proc/sys/net/core/default_qdisc"),
        "clock source": _read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "cores": str(os.cpu_count()),
    }
    reason = "; ".join(f"{found.backend}: {found.reason}" for found in probes[: probes.index(best) + 1])
    return HostProbe(platform.release(), best.backend, reason, version, cgroup.version(), checks)


def _say(found: Probe) -> str:
    return ("yes: " if found.ok else "no: ") + found.reason


def _docker(run: str) -> tuple[str, str]:
    try:
        version = DockerHost(run).version
    except DockerProblem as error:
        return "", f"no: {error}"
    return version, f"yes: engine {version}"


def _cgroup() -> str:
    root = cgroup.CGROUP_ROOT
    if not root.is_dir():
        return f"no: {root} is not mounted"
    return f"yes: version {cgroup.version()}, {'writable' if os.access(root, os.W_OK) else 'read-only'}"


def _cpu_quota() -> str:
    """CFS_BANDWIDTH: the Raspberry Pi's kernel lacked it until 2020, and Docker then ignores `cpus` in
    silence.
    """
    v2 = cgroup.version() == 2
    candidates = ["cgroup.controllers"] if v2 else ["cpu/cpu.cfs_quota_us", "cpu,cpuacct/cpu.cfs_quota_us"]
    found = next((p for name in candidates if (p := Path(cgroup.CGROUP_ROOT) / name).exists()), None)
    if found is None:
        return "no: the kernel has no CFS bandwidth control, CPU quotas would be ignored"
    if v2 and "cpu" not in found.read_text().split():
        return "no: the cpu controller is not enabled"
    return "yes"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        return f"unknown: {error.strerror}"
