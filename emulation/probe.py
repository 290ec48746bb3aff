"""What this kernel, Docker and cgroup can and cannot do: for hostd's record and for `edgerig doctor`."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from emulation import cgroup
from emulation.commands import CommandError
from emulation.docker_host import DockerHost, DockerProblem
from emulation.links import REGISTRY
from emulation.links.base import Probe
from emulation.links.scratch import scratch_namespace
from emulation.netns import NamespaceError
from topology.link_features import CANNOT, FEATURES


@dataclass(frozen=True)
class HostProbe:
    """`backend` is the best link backend that works; `checks` everything found out, by name, in words."""

    kernel: str
    backend: str
    reason: str
    docker: str
    cgroup: int
    checks: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(
        default_factory=dict
    )  # what `backend` can do of a link: yes, or no with the reason
    install: tuple[str, ...] = ()  # what would make more possible


def probe(run: str = "") -> HostProbe:
    """Try everything; what fails is said in `checks`, nothing is raised."""
    probes = [make().probe() for make in REGISTRY.values()]
    best = next(found for found in probes if found.ok)
    version, docker_says = _docker(run)
    checks = {f"link backend {found.backend}": _say(found) for found in probes}
    checks |= {
        "qdiscs": qdiscs(),
        "docker": docker_says,
        "cgroup": _cgroup(),
        "cpu quota": _cpu_quota(),
        "memory limit": _memory_limit(),
        "congestion control": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "congestion controls available": _read("/proc/sys/net/ipv4/tcp_available_congestion_control"),
        "default qdisc": _read("/proc/sys/net/core/default_qdisc"),
        "clock source": _read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "cores": str(os.cpu_count()),
    }
    reason = "; ".join(f"{found.backend}: {found.reason}" for found in probes[: probes.index(best) + 1])
    cannot = CANNOT[best.backend]
    links = {name: f"no: {cannot[name]}" if name in cannot else "yes" for name in FEATURES}
    found = HostProbe(platform.release(), best.backend, reason, version, cgroup.version(), checks, links)
    return replace(found, install=tuple(advice(found)))


def advice(found: HostProbe) -> list[str]:
    """What to install or to turn on, in the order of how much it gives."""
    checks = found.checks
    missing = [name for name, package in PACKAGES.items() if shutil.which(name, path=_PATH) is None]
    wanted = [f"{PACKAGES[name]}: {name} is not installed" for name in missing]
    if not found.docker:
        wanted.append("Docker Engine and Compose v2 (`make setup` installs them on Debian and Ubuntu)")
    if not missing and found.backend == "none":
        wanted.append(f"{NETEM_MODULE}; or sch_tbf and xt_NFQUEUE: nothing shapes links here")
    elif found.backend == "nfqueue" and not missing:
        wanted.append(f"{NETEM_MODULE}: only for `duplicate`, everything else works without")
    if checks["cpu quota"].startswith("no"):
        wanted.append("a kernel with CONFIG_CFS_BANDWIDTH: CPU quotas are not emulated without")
    if checks["memory limit"].startswith("no"):
        wanted.append("`cgroup_enable=memory` on the kernel's command line (Raspberry Pi OS: cmdline.txt)")
    if "cubic" not in checks["congestion controls available"].split():
        wanted.append("tcp_cubic (modprobe tcp_cubic), or `network.congestion` of those that are there")
    return wanted


PACKAGES = {"tc": "iproute2", "ip": "iproute2", "iptables": "iptables", "unshare": "util-linux"}
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
NETEM_MODULE = (
    "the kernel module sch_netem (Ubuntu: linux-modules-extra-$(uname -r), Fedora: kernel-modules-extra)"
)
# tc's arguments with which each can be tried.
QDISCS: dict[str, list[str]] = {
    "netem": [],
    "tbf": ["rate", "1mbit", "burst", "2kb", "limit", "9kb"],
    "htb": [],
    "fq": [],
    "fq_codel": [],
    "prio": [],
    "ingress": [],
}


def qdiscs() -> str:
    """Which queueing disciplines the kernel has, each tried in a namespace of its own."""
    works, fails = [], []
    try:
        with scratch_namespace() as netns:
            for kind, arguments in QDISCS.items():
                where = [] if kind == "ingress" else ["root"]
                try:
                    netns.run("tc", "qdisc", "replace", "dev", "lo", *where, kind, *arguments)
                    works.append(kind)
                except CommandError:
                    fails.append(kind)
    except (CommandError, NamespaceError) as error:
        return f"unknown: {error}"
    return f"yes: {', '.join(works) or 'none'}; no: {', '.join(fails) or 'none'}"


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


def _memory_limit() -> str:
    """Raspberry Pi OS leaves the memory controller off, and Docker then ignores `memory` in silence."""
    root = Path(cgroup.CGROUP_ROOT)
    if cgroup.version() == 2:
        found = "memory" in _read(str(root / "cgroup.controllers")).split()
    else:
        found = (root / "memory" / "memory.limit_in_bytes").exists()
    return "yes" if found else "no: the memory controller is off, memory limits would be ignored"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        return f"unknown: {error.strerror}"
