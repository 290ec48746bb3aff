"""Send numbered packets through a link, and say what became of each: for the contract tests of the backends."""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass, field
from functools import partial

from emulation.links.base import Direction, LinkEnds

_STAMP = struct.Struct("!Id")
QUIET_S = 0.5  # nothing more comes when nothing has come for this long beyond the link's delay


@dataclass
class Passage:
    """`arrived`: numbers in order of arrival, duplicates included; `delays_s` of each first arrival."""

    sent: int
    arrived: list[int] = field(default_factory=list)
    delays_s: dict[int, float] = field(default_factory=dict)

    @property
    def lost(self) -> set[int]:
        return set(range(self.sent)) - set(self.arrived)

    @property
    def overtakers(self) -> int:
        """Packets that arrived before one with a lower number."""
        lowest, count = self.sent, 0
        for number in reversed(self.arrived):
            count += number > lowest
            lowest = min(lowest, number)
        return count

    @property
    def duplicates(self) -> int:
        return len(self.arrived) - len(set(self.arrived))


def _bound() -> socket.socket:
    handle = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    handle.bind(("0.0.0.0", 0))
    handle.setblocking(False)
    return handle


def send(ends: LinkEnds, way: Direction, count: int, gap_s: float, *, longest_s: float = 0.2) -> Passage:
    """`count` packets of 60 bytes, `gap_s` apart, from one socket to another in the namespaces of both ends."""
    sender_ns, receiver_ns = (
        (ends.device_ns, ends.broker_ns) if way == "up" else (ends.broker_ns, ends.device_ns)
    )
    passage = Passage(count)
    with receiver_ns.call(_bound) as receiver, sender_ns.call(_bound) as sender:
        target = ends.broker_address if way == "up" else ends.address
        sender.connect((target, receiver.getsockname()[1]))
        due = time.monotonic()
        for number in range(count):
            _collect(receiver, passage, due)
            sender.send(_STAMP.pack(number, time.monotonic()).ljust(18, b"\0"))
            due += gap_s
        _collect(receiver, passage, time.monotonic() + longest_s + QUIET_S)
    return passage


def _collect(receiver: socket.socket, passage: Passage, until_s: float) -> None:
    while True:
        wait_s = until_s - time.monotonic()
        receiver.settimeout(max(1e-4, wait_s))
        try:
            data = receiver.recv(64)
        except (TimeoutError, BlockingIOError):
            return
        number, sent_s = _STAMP.unpack_from(data)
        passage.arrived.append(number)
        passage.delays_s.setdefault(number, time.monotonic() - sent_s)
        if wait_s <= 0:
            return


def checksum_errors(ends: LinkEnds, way: Direction) -> int:
    """Datagrams that the receiver's kernel refused because of their checksum, so far."""
    netns = ends.broker_ns if way == "up" else ends.device_ns
    lines = netns.call(partial(_read, "/proc/thread-self/net/snmp")).splitlines()
    names, values = (line.split() for line in lines if line.startswith("Udp:"))
    return int(values[names.index("InCsumErrors")])


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
