"""Devices, links, addresses, tolerances."""

from __future__ import annotations

import ipaddress

from topology.compile.power import compile_availability, compile_battery
from topology.host import group_memory_bytes
from topology.links import resolve_link
from topology.plan import DevicePlan, NetworkPlan, Tolerance
from topology.profiles import DEVICES
from topology.schema import Topology, device_name

DEFAULT_SUBNET = "10.213.0.0/24"  # a corner of 10/8 that neither Docker nor common VPNs use


BROKER_OFFSET = 2  # in the subnet: .1 is the bridge itself, .2 the broker,


DEVICES_OFFSET = 16  # and from .16 on the devices; between them is room for later services


BROKER_UID, COORDINATOR_UID, AGENTS_UID = 19001, 19002, 20_000  # above those of any distribution's users


PREFIX_SMALL, PREFIX_LARGE = 24, 20  # 239 and 4079 devices


def default_subnet(devices: int) -> str:
    """Of the data network, with room for so many devices."""
    small = devices <= 2 ** (32 - PREFIX_SMALL) - DEVICES_OFFSET - 1
    return DEFAULT_SUBNET if small else DEFAULT_SUBNET.replace(f"/{PREFIX_SMALL}", f"/{PREFIX_LARGE}")


class Addresses:
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


def compile_devices(
    topology: Topology, addresses: Addresses | None, uid: int | None
) -> tuple[DevicePlan, ...]:
    devices: list[DevicePlan] = []
    for group, spec in topology.devices.items():
        for number in range(1, spec.count + 1):
            index = len(devices)
            name = device_name(group, number)
            devices.append(
                DevicePlan(
                    name=name,
                    group=group,
                    index=index,
                    profile=spec.profile,
                    cpus=spec.cores,
                    memory_bytes=group_memory_bytes(spec),
                    threads=spec.threads if spec.threads is not None else DEVICES[spec.profile].threads,
                    cpu_period_us=round(spec.cpu_period * 1e6),
                    link=resolve_link(spec.link, f"{topology.seed}/{name}"),
                    battery=compile_battery(spec.battery),
                    availability=compile_availability(spec.availability, name, topology.seed),
                    address=addresses.at(DEVICES_OFFSET + index) if addresses else "",
                    uid=AGENTS_UID + index if uid is None else uid,
                )
            )
    return tuple(devices)


def compile_tolerance(topology: Topology) -> Tolerance:
    given = topology.tolerance
    return Tolerance(rate=given.rate, delay_s=given.delay_floor, delay=given.delay, cpu=given.cpu)


def compile_network(topology: Topology, addresses: Addresses | None) -> NetworkPlan:
    congestion, backend = topology.network.congestion, topology.network.backend
    if addresses is None:
        return NetworkPlan(broker_host="127.0.0.1", congestion=congestion, backend="auto")
    return NetworkPlan(
        subnet=str(addresses.network),
        gateway=addresses.at(1),
        broker_address=addresses.at(BROKER_OFFSET),
        congestion=congestion,
        backend=backend,
    )
