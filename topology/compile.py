"""From a topology to a plan: every name resolved to numbers, addresses, uids and fault targets. Pure and
deterministic.
"""

from __future__ import annotations

import hashlib
import ipaddress
import random
import re

from topology.checks import samples_per_device
from topology.errors import TopologyError, TopologyErrors, join_path
from topology.host import Host, group_cpus, group_memory_bytes, host_problems
from topology.links import resolve_link
from topology.plan import (
    CompressionPlan,
    DataPlan,
    DevicePlan,
    Expectation,
    FaultPlan,
    NetworkPlan,
    OptimizerPlan,
    PartitionPlan,
    Plan,
    PolicyPlan,
    Runtime,
    Tolerance,
    TrainingPlan,
    Trigger,
    UplinkPlan,
)
from topology.profiles import DEVICES
from topology.schema import Topology, device_name

# Run ids are part of topics, labels, network and container names: a DNS label with room for a prefix.
RUN_ID = re.compile(r"^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$")
DEFAULT_SUBNET = "10.213.0.0/24"  # a corner of 10/8 that neither Docker nor common VPNs use
BROKER_OFFSET = 2  # in the subnet: .1 is the bridge itself, .2 the broker,
DEVICES_OFFSET = 16  # and from .16 on the devices; between them is room for later services
BROKER_UID, COORDINATOR_UID, AGENTS_UID = 19001, 19002, 20_000  # above those of any distribution's users
PREFIX_SMALL, PREFIX_LARGE = 24, 20  # 239 and 4079 devices
START_TIMEOUT_S = 120.0  # of a demo on a busy machine, ten times what it takes; and more for a large fleet
START_TIMEOUT_PER_DEVICE_S = 3.0


def compile_topology(
    topology: Topology,
    run_id: str,
    *,
    runtime: Runtime = "docker",
    host: Host | None = None,
    subnet: str | None = None,
    uid: int | None = None,
    sha256: str = "",
) -> Plan:
    """The plan of one run.

    `host`: also check that it can give what is asked. `subnet`: of the data network (docker; default
    10.213.0.0/24, or /20 for more than 239 devices). `uid`: one user id for all containers, where who starts
    them is no root; otherwise each gets its own. `sha256`: of the file, where there is one. Raises
    TopologyErrors, and ValueError for a bad run id or subnet.
    """
    if not RUN_ID.match(run_id):
        raise ValueError(f"run id {run_id!r}: small letters, digits and hyphens, at most 48, are allowed")
    if host is not None:
        _require_host(topology, host, runtime)
    count = len(topology.device_names)
    addresses = _Addresses(subnet or default_subnet(count), count) if runtime == "docker" else None
    devices = _devices(topology, addresses, uid)
    return Plan(
        run=run_id,
        name=topology.name,
        seed=topology.seed,
        runtime=runtime,
        topology_sha256=sha256 or hashlib.sha256(repr(topology).encode()).hexdigest(),
        devices=devices,
        data=_data(topology),
        model=topology.model,
        training=_training(topology),
        policy=_policy(topology),
        compression=_compression(topology),
        faults=_faults(topology),
        expect=tuple(
            Expectation(metric=m, op=c.op, value=c.value) for m, c in sorted(topology.expect.items())
        ),
        tolerance=_tolerance(topology),
        network=_network(topology, addresses),
        coordinator_uid=COORDINATOR_UID if uid is None else uid,
        broker_uid=BROKER_UID if uid is None else uid,
        start_timeout_s=START_TIMEOUT_S + START_TIMEOUT_PER_DEVICE_S * count,
    )


def default_subnet(devices: int) -> str:
    """Of the data network, with room for so many devices."""
    small = devices <= 2 ** (32 - PREFIX_SMALL) - DEVICES_OFFSET - 1
    return DEFAULT_SUBNET if small else DEFAULT_SUBNET.replace(f"/{PREFIX_SMALL}", f"/{PREFIX_LARGE}")


class _Addresses:
    """Fixed addresses in the data network: gateway .1, broker .2, devices from .16 on."""

    def __init__(self, subnet: str, devices: int) -> None:
        network = ipaddress.ip_network(subnet)
        if not isinstance(network, ipaddress.IPv4Network):
            raise ValueError(f"subnet {subnet}: IPv4 is wanted")
        if network.num_addresses < DEVICES_OFFSET + devices + 1:
            raise ValueError(
                f"subnet {subnet} has no room for {devices} devices: a /{PREFIX_LARGE} holds 4079"
            )
        self.network = network

    def at(self, offset: int) -> str:
        return str(self.network[offset])


def _require_host(topology: Topology, host: Host, runtime: Runtime) -> None:
    found = [
        TopologyError(join_path(problem.path), problem.value, problem.message, problem.hint)
        for problem in host_problems(topology, host, runtime)
    ]
    if found:
        raise TopologyErrors(found)


def _devices(topology: Topology, addresses: _Addresses | None, uid: int | None) -> tuple[DevicePlan, ...]:
    devices: list[DevicePlan] = []
    for group, spec in topology.devices.items():
        link = resolve_link(spec.link)
        for number in range(1, spec.count + 1):
            index = len(devices)
            devices.append(
                DevicePlan(
                    name=device_name(group, number),
                    group=group,
                    index=index,
                    profile=spec.profile,
                    cpus=group_cpus(spec),
                    memory_bytes=group_memory_bytes(spec),
                    threads=spec.threads if spec.threads is not None else DEVICES[spec.profile].threads,
                    link=link,
                    address=addresses.at(DEVICES_OFFSET + index) if addresses else "",
                    uid=AGENTS_UID + index if uid is None else uid,
                )
            )
    return tuple(devices)


def _data(topology: Topology) -> DataPlan:
    given = topology.data.partition
    default = PartitionPlan(kind=given.kind)
    partition = PartitionPlan(
        kind=given.kind,
        alpha=given.alpha if given.alpha is not None else default.alpha,
        shards_per_device=given.shards_per_device
        if given.shards_per_device is not None
        else default.shards_per_device,
    )
    return DataPlan(
        dataset=topology.data.dataset, partition=partition, samples_per_device=samples_per_device(topology)
    )


def _training(topology: Topology) -> TrainingPlan:
    given, optimizer = topology.training, topology.training.optimizer
    return TrainingPlan(
        rounds=given.rounds,
        local_epochs=given.local_epochs,
        batch_size=given.batch_size,
        optimizer=OptimizerPlan(
            kind=optimizer.kind,
            lr=optimizer.lr,
            momentum=optimizer.momentum,
            nesterov=optimizer.nesterov,
            weight_decay=optimizer.weight_decay,
        ),
        stop_at_accuracy=given.stop_at_accuracy,
    )


def _policy(topology: Topology) -> PolicyPlan:
    given = topology.policy
    return PolicyPlan(
        kind=given.kind,
        cohort=given.cohort if given.cohort is not None else len(topology.device_names),
        over_select=given.over_select,
        deadline_s=given.deadline,
        quorum=given.quorum,
        server_lr=given.server_lr,
    )


def _compression(topology: Topology) -> CompressionPlan:
    uplink = topology.compression.uplink
    return CompressionPlan(
        uplink=UplinkPlan(
            top_k=uplink.sparsify.top_k if uplink.sparsify else None,
            quantize=uplink.quantize,
            entropy=uplink.entropy,
        ),
        downlink=topology.compression.downlink.quantize,
    )


def _faults(topology: Topology) -> tuple[FaultPlan, ...]:
    """Targets are picked by a generator of each fault's own, so that adding one does not move the others."""
    names = topology.device_names
    plans = []
    for index, fault in enumerate(topology.faults, start=1):
        rng = random.Random(f"edgerig/{topology.seed}/fault/{index}")
        trigger = (
            Trigger(at_s=fault.at)
            if fault.when is None
            else Trigger(round=fault.when.round, state=fault.when.state)
        )
        plans.append(
            FaultPlan(
                id=f"{fault.kind}-{index}",
                kind=fault.kind,
                trigger=trigger,
                targets=tuple(fault.spec.targets(names, rng)),
                heal_after_s=fault.heal_after,
                params=fault.spec.params(),
            )
        )
    return tuple(plans)


def _tolerance(topology: Topology) -> Tolerance:
    given = topology.tolerance
    return Tolerance(rate=given.rate, delay_s=given.delay_floor, delay=given.delay, cpu=given.cpu)


def _network(topology: Topology, addresses: _Addresses | None) -> NetworkPlan:
    congestion = topology.network.congestion or ""
    if addresses is None:
        return NetworkPlan(broker_host="127.0.0.1", congestion=congestion)
    return NetworkPlan(
        subnet=str(addresses.network),
        gateway=addresses.at(1),
        broker_address=addresses.at(BROKER_OFFSET),
        congestion=congestion,
    )
