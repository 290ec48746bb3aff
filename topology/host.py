"""Whether this host can give what a topology asks for. Kept apart from the schema: a file is checked
elsewhere too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from topology.checks import Problem
from topology.checks.fault_links import groups_hit
from topology.errors import Path
from topology.link_features import unsupported_link
from topology.links import resolve_link
from topology.plan import Runtime
from topology.profiles import DEVICES
from topology.schema import DeviceGroup, Topology
from topology.schema.faults.link import OtherLink

# Broker, coordinator (evaluation in its idle moments), hostd's packet queues and dockerd run beside the
# devices.
CORES_FOR_SERVICES = 0.5
# Coordinator up to 600 MiB with data and onnxruntime, broker, hostd, dockerd.
MEMORY_FOR_SERVICES_BYTES = 1 << 30
# An agent peaks below 120 MB while it trains; the process runtime has no limits to add up, only what is
# really used.
AGENT_PEAK_BYTES = 120_000_000
_ROUNDING = 1e-9  # ten times 0.15 is a little less or more than 1.5 in binary


class Host(NamedTuple):
    """What a host has. `cores` as a scheduler may use them: affinity and an own quota counted. `link_backends` that
    work here, the best first; None where that could not be tried (no root), and is found out when a run starts.
    """

    cores: float
    memory_bytes: int
    link_backends: tuple[str, ...] | None = None


def this_host() -> Host:
    """The host this process runs on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Host(cores=float(len(os.sched_getaffinity(0))), memory_bytes=memory)


def group_memory_bytes(spec: DeviceGroup) -> int:
    return spec.memory if spec.memory is not None else DEVICES[spec.profile].memory_bytes


def host_problems(topology: Topology, host: Host, runtime: Runtime) -> Iterator[Problem]:
    """CPU quotas and memory limits against the host. The process runtime emulates neither."""
    if runtime == "process":
        yield from _agents_fit(topology, host)
        yield from _no_power(topology)
        return
    yield from _cpus_fit(topology, host)
    yield from _memory_fits(topology, host)
    if host.link_backends is not None:
        yield from _links_fit(topology, host.link_backends)


def _cpus_fit(topology: Topology, host: Host) -> Iterator[Problem]:
    for name, spec in topology.devices.items():
        if spec.cores > host.cores:
            yield Problem(
                ("devices", name, "cpus" if spec.cpus is not None else "profile"),
                f"a device of {spec.cores:g} cores is faster than this host of {host.cores:g}",
                "give it fewer `cpus`",
            )
    total = sum(spec.cores * spec.count for spec in topology.devices.values())
    allowed = host.cores - CORES_FOR_SERVICES
    if total > allowed + _ROUNDING:
        yield Problem(
            ("devices",),
            f"the CPU quotas sum up to {total:g} cores, and this host gives at most {allowed:g}",
            f"{CORES_FOR_SERVICES} of {host.cores:g} are for broker and coordinator; fewer devices or `cpus`",
            value=f"{total:g} cores",
        )


def _memory_fits(topology: Topology, host: Host) -> Iterator[Problem]:
    total = sum(group_memory_bytes(spec) * spec.count for spec in topology.devices.values())
    allowed = host.memory_bytes - MEMORY_FOR_SERVICES_BYTES
    if total > allowed:
        yield Problem(
            ("devices",),
            f"the memory limits sum up to {_mib(total)}, and this host gives at most {_mib(allowed)}",
            "fewer devices, or less `memory` for each",
            value=_mib(total),
        )


def _links_fit(topology: Topology, works: tuple[str, ...]) -> Iterator[Problem]:
    """What the backend of this run cannot do of a link, by name; who asks for `none` knows that nothing is shaped."""
    wanted = topology.network.backend
    if wanted == "none":
        return
    if wanted not in ("auto", *works):
        hint = f"here work: {', '.join(works)}; `edgerig doctor` says why not {wanted}"
        yield Problem(("network", "backend"), f"{wanted} does not work on this host", hint)
        return
    backend = works[0] if wanted == "auto" else wanted
    others = [name for name in works if name not in (backend, "none")]
    for group, spec in topology.devices.items():
        for text in unsupported_link(backend, resolve_link(spec.link)):
            yield Problem(
                ("devices", group, "link"),
                f"{backend}, which shapes links on this host, cannot do {text}",
                _leave_out(others),
            )
    for path, text in _faults_ask(topology, backend):
        yield Problem(
            path, f"{backend}, which shapes links on this host, cannot do {text}", _leave_out(others)
        )


def _leave_out(others: list[str]) -> str:
    return f"leave it out, or network.backend: {others[0]}" if others else "leave it out"


def _faults_ask(topology: Topology, backend: str) -> Iterator[tuple[Path, str]]:
    """What the links that faults put in force ask of a backend, and it cannot do."""
    for index, fault in enumerate(topology.faults):
        for kind in fault.kinds:
            spec = getattr(fault, kind)
            if not isinstance(spec, OtherLink):
                continue
            links = [spec.changed(topology.devices[group].link, "") for group in groups_hit(spec, topology)]
            texts = {text: None for link in links for text in unsupported_link(backend, link)}
            yield from ((("faults", index, kind), text) for text in texts)


def _agents_fit(topology: Topology, host: Host) -> Iterator[Problem]:
    total = sum(spec.count for spec in topology.devices.values()) * AGENT_PEAK_BYTES
    allowed = host.memory_bytes - MEMORY_FOR_SERVICES_BYTES
    if total > allowed:
        yield Problem(
            ("devices",),
            f"the agents need {_mib(total)}, and this host gives at most {_mib(allowed)}",
            "fewer devices",
        )


def _no_power(topology: Topology) -> Iterator[Problem]:
    """Drain is measured in the cgroup and on the interface of a container; a process has neither."""
    for name, spec in topology.devices.items():
        for key in ("battery", "availability"):
            if getattr(spec, key) is not None:
                yield Problem(
                    ("devices", name, key), "runtime process does not emulate it", "use the docker runtime"
                )


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.0f} MiB"
