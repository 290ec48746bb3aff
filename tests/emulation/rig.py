"""A little network without Docker: a bridge in a namespace that plays the host, a broker and devices on veths."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from emulation.links.base import LinkEnds
from emulation.netns import Netns, interface_by_index, interface_with

SUBNET = "10.99.77"
_SERIAL = itertools.count()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass
class Rig:
    tag: str
    host: Netns
    broker: Netns
    devices: list[Netns]
    boots: dict[str, int]

    def restart(self, node: str) -> None:
        """What a container's restart is: another namespace with the same address, the old one gone."""
        name = f"{self.tag}-{node}"
        ip("netns", "del", name)
        self.boots[node] = self.boots.get(node, 1) + 1
        index = 0 if node == "b" else 1 + int(node[1:])
        _node(f"{self.tag}-h", name, index)
        if node == "b":
            self.broker = Netns.named(name)
        else:
            self.devices[index - 1] = Netns.named(name)

    def ends(self, index: int, seed: str = "7") -> LinkEnds:
        address, broker_address = f"{SUBNET}.{10 + index}", f"{SUBNET}.2"
        mine = interface_with(self.devices[index], address)
        return LinkEnds(
            device=f"d{index}",
            address=address,
            queue=index + 1,
            seed=seed,
            device_boot=f"{index}-{self.boots.get(f'd{index}', 1)}",
            broker_boot=f"b-{self.boots.get('b', 1)}",
            device_ns=self.devices[index],
            device_interface=mine.name,
            host=self.host,
            host_interface=interface_by_index(self.host, mine.peer_index),
            broker_ns=self.broker,
            broker_interface=interface_with(self.broker, broker_address).name,
            broker_address=broker_address,
        )


def _node(host: str, name: str, index: int) -> None:
    """A namespace on the bridge: 0 is the broker, then the devices."""
    address = f"{SUBNET}.{2 if index == 0 else 9 + index}/24"
    ip("netns", "add", name)
    ip("-n", name, "link", "set", "lo", "up")
    # Of a namespace that was deleted a moment ago the veth may still be there.
    subprocess.run(["ip", "-n", host, "link", "del", f"v{index}"], capture_output=True, check=False)
    ip("-n", host, "link", "add", f"v{index}", "type", "veth", "peer", "name", "eth0", "netns", name)
    ip("-n", host, "link", "set", f"v{index}", "master", "br0", "up")
    ip("-n", name, "addr", "add", address, "dev", "eth0")
    ip("-n", name, "link", "set", "eth0", "up")


@contextmanager
def rig(devices: int) -> Iterator[Rig]:
    """Namespaces `ert<pid>x<n>-*`; all are deleted at the end, and the veths with them."""
    tag = f"ert{os.getpid()}x{next(_SERIAL)}"
    names = [f"{tag}-h", f"{tag}-b", *(f"{tag}-d{i}" for i in range(devices))]
    try:
        host = names[0]
        ip("netns", "add", host)
        ip("-n", host, "link", "set", "lo", "up")
        ip("-n", host, "link", "add", "br0", "type", "bridge")
        ip("-n", host, "link", "set", "br0", "up")
        for index, name in enumerate(names[1:]):
            _node(host, name, index)
        devices = [Netns.named(name) for name in names[2:]]
        yield Rig(tag, Netns.named(names[0]), Netns.named(names[1]), devices, {})
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
