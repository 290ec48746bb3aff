"""Network namespaces: run a function inside one, find interfaces by address.

A namespace is entered by a thread made for that one call, because setns changes the calling thread alone and
a thread that entered a foreign namespace must never be handed other work. Programs started by that thread,
and sockets it opens, belong to the namespace; sockets stay there after the thread has ended.

`os.setns` came with Python 3.12; this calls the C library's.
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from emulation.commands import run

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
ENTER_WAIT_S = 60.0  # bounds what runs inside: a dozen commands, or a measurement's sockets being opened

_libc = ctypes.CDLL(None, use_errno=True)


class NamespaceError(RuntimeError):
    """The namespace is gone (its container ended), or entering it was refused."""


@dataclass(frozen=True)
class Interface:
    """`peer_index` is the interface index of a veth's other end, in that end's namespace; 0 if it is no veth."""

    name: str
    index: int
    peer_index: int


class Netns:
    """A network namespace by the path of its file. Opened afresh for every call: nothing here keeps it alive.

    `inode` is remembered, so that a process id used again by another process is noticed, not entered.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        try:
            self.inode = os.stat(self.path).st_ino
        except OSError as error:
            raise NamespaceError(f"{self.path}: {error.strerror}") from None

    @classmethod
    def of_pid(cls, pid: int) -> Netns:
        return cls(f"/proc/{pid}/ns/net")

    @classmethod
    def named(cls, name: str) -> Netns:
        """One made by `ip netns add`."""
        return cls(f"/run/netns/{name}")

    @classmethod
    def own(cls) -> Netns:
        return cls("/proc/self/ns/net")

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` inside, in a thread of its own; its result or exception comes back."""
        result: list[T] = []
        failure: list[BaseException] = []

        def inside() -> None:
            try:
                self._enter()
                result.append(function())
            except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
                failure.append(error)

        thread = threading.Thread(target=inside, name=f"netns-{self.inode}", daemon=True)
        thread.start()
        thread.join(ENTER_WAIT_S)
        if thread.is_alive():
            raise NamespaceError(f"{self.path}: still busy after {ENTER_WAIT_S:.0f} s")
        if failure:
            raise failure[0]
        return result[0]

    def run(self, *argv: str, input_text: str | None = None) -> str:
        """Standard output of a program run inside. Raises CommandError, NamespaceError."""
        return self.call(lambda: run(argv, input_text=input_text))

    def _enter(self) -> None:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NamespaceError(f"{self.path}: {error.strerror}") from None
        try:
            if os.fstat(descriptor).st_ino != self.inode:
                raise NamespaceError(f"{self.path} is another namespace by now")
            if _libc.setns(descriptor, CLONE_NEWNET) != 0:
                code = ctypes.get_errno()
                raise NamespaceError(f"{self.path}: setns: {os.strerror(code)} (hostd needs CAP_SYS_ADMIN)")
        finally:
            os.close(descriptor)

    def __repr__(self) -> str:
        return f"Netns({self.path!r})"


def interface_with(netns: Netns, address: str) -> Interface:
    """The interface that has this IPv4 address. Raises LookupError naming the addresses that are there."""
    links: list[dict[str, Any]] = json.loads(netns.run("ip", "-j", "-4", "addr", "show") or "[]")
    seen: list[str] = []
    for link in links:
        for info in link.get("addr_info", []):
            seen.append(str(info.get("local")))
            if info.get("local") == address:
                index = int(link["ifindex"])
                return Interface(str(link["ifname"]), index, int(link.get("link_index") or 0))
    raise LookupError(
        f"no interface with address {address} in {netns.path}; there are {', '.join(seen) or 'none'}"
    )


def interface_by_index(netns: Netns, index: int) -> str:
    """Name of the interface with this index, in this namespace. Raises LookupError."""
    links: list[dict[str, Any]] = json.loads(netns.run("ip", "-j", "link", "show") or "[]")
    for link in links:
        if int(link["ifindex"]) == index:
            return str(link["ifname"])
    raise LookupError(f"no interface with index {index} in {netns.path}: the veth's other end is elsewhere")


def read_sysctl(netns: Netns, name: str) -> str:
    """A network sysctl as seen inside, e.g. `net.ipv4.tcp_congestion_control`. `/proc/sys/net` follows the
    thread.
    """
    path = "/proc/sys/" + name.replace(".", "/")
    return netns.call(lambda: Path(path).read_text().strip())
