"""A little network in network namespaces: a bridge that plays the host, a broker and devices. Needs root, no Docker."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from emulation.links.base import LinkEnds
from emulation.netns import Netns, interface_by_index, interface_with

SUBNET = "10.99.78"
TAG = f"erb{os.getpid()}"


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass(frozen=True)
class Rig:
    """`broker` and `devices` are names of namespaces, for `ip netns exec`."""

    host: str
    broker: str
    devices: tuple[str, ...]

    broker_address = f"{SUBNET}.2"

    def ends(self, index: int, seed: str = "7") -> LinkEnds:
        address = f"{SUBNET}.{10 + index}"
        host, device, broker = (Netns.named(name) for name in (self.host, self.devices[index], self.broker))
        mine = interface_with(device, address)
        return LinkEnds(
            device=f"d{index}",
            address=address,
            queue=index + 1,
            seed=seed,
            device_boot=f"{index}-1",
            broker_boot="b-1",
            device_ns=device,
            device_interface=mine.name,
            host=host,
            host_interface=interface_by_index(host, mine.peer_index),
            broker_ns=broker,
            broker_interface=interface_with(broker, self.broker_address).name,
            broker_address=self.broker_address,
        )


@contextmanager
def namespaces(devices: int) -> Iterator[Rig]:
    """Namespaces `erb<pid>-*`; all are deleted at the end, and the veths with them."""
    names = [f"{TAG}-h", f"{TAG}-b", *(f"{TAG}-d{i}" for i in range(devices))]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        host = names[0]
        ip("-n", host, "link", "add", "br0", "type", "bridge")
        ip("-n", host, "link", "set", "br0", "up")
        for index, name in enumerate(names[1:]):
            address = f"{SUBNET}.{2 if index == 0 else 9 + index}/24"
            ip("-n", host, "link", "add", f"v{index}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", host, "link", "set", f"v{index}", "master", "br0", "up")
            ip("-n", name, "addr", "add", address, "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
        yield Rig(names[0], names[1], tuple(names[2:]))
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
