"""What a device's connection costs: bytes at the MQTT client, and on the wire below it.

Two layers, counted apart because they differ by TLS, TCP/IP, acknowledgements and retransmissions:

* **mqtt**: what the MQTT client handed to its socket and got from it, in clear: packets with their headers, every
  resend, pings and acknowledgements included.
* **wire**: what passed the network interface that carries the connection, as the kernel counts frames. On loopback
  (the process runtime) an interface is shared with everybody, so there the connection's own TCP_INFO is taken: payload
  bytes with retransmissions, and `HEADER_BYTES` per segment.

Counters only: `mqtt.Client` feeds them from paho's thread, the service's loop reads them.
"""

from __future__ import annotations

import array
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

RECORD_EVERY_S = 5.0  # a killed device loses at most so much of its account; a line has 150 bytes
HEADER_BYTES = 66  # Ethernet 14, IPv4 20, TCP 20 with the 12 of its timestamps
# struct tcp_info of linux/tcp.h: bytes_received, segs_out, segs_in at 128; bytes_sent (with retransmissions) at 200.
TCP_INFO_BYTES = 208
_RECEIVED, _SENT = struct.Struct("=QII"), struct.Struct("=Q")
_SIOCGIFADDR = 0x8915
DEV = Path("/proc/thread-self/net/dev")  # the namespace of the thread that reads, not of the process's first


class Traffic(Struct, frozen=True, kw_only=True):
    """Since the start of this process. `wire`: where the two wire figures come from, empty if from nowhere."""

    mqtt_sent: int
    mqtt_received: int
    wire_sent: int | None = None
    wire_received: int | None = None
    wire: str = ""


class Meter:
    """`begin` before the first connection; `sent`, `received`, `opened`, `closing` from the client's thread; `now` any
    time.
    """

    def __init__(self, read_dev: Callable[[], str] = DEV.read_text) -> None:
        self._read_dev = read_dev
        self._mqtt_sent = self._mqtt_received = 0
        self._source = ""
        self._socket: socket.socket | None = None
        self._ended = (0, 0)  # wire bytes of connections that are over
        self._before = ""  # all interfaces, before the first connection
        self._base: tuple[int, int] | None = None  # of the connection's interface then

    def begin(self) -> None:
        """What came before, the link's measurement at the gate, is none of ours."""
        try:
            self._before = self._read_dev()
        except OSError:
            self._before = ""  # no /proc on this device: the wire is not counted, and the record says so

    def sent(self, size: int) -> None:
        self._mqtt_sent += size

    def received(self, size: int) -> None:
        self._mqtt_received += size

    def opened(self, connection: socket.socket) -> None:
        """A TCP connection to the broker is up."""
        name = interface_of(connection)
        if not name:
            return
        self._source = "tcp_info" if name == LOOPBACK else f"interface {name}"
        if name == LOOPBACK:
            self._socket = connection
        elif self._base is None:
            self._base = interface_bytes(self._before, name)

    def closing(self) -> None:
        """The connection is about to be closed: the last moment at which the kernel tells."""
        connection, self._socket = self._socket, None
        if connection is not None:
            sent, received = tcp_bytes(connection)
            self._ended = (self._ended[0] + sent, self._ended[1] + received)

    def now(self) -> Traffic:
        wire = self._wire()
        return Traffic(
            mqtt_sent=self._mqtt_sent,
            mqtt_received=self._mqtt_received,
            wire_sent=wire[0] if wire else None,
            wire_received=wire[1] if wire else None,
            wire=self._source if wire else "",
        )

    def _wire(self) -> tuple[int, int] | None:
        if self._base is not None:
            try:
                found = interface_bytes(self._read_dev(), self._source.partition(" ")[2])
            except OSError:
                found = None
            return None if found is None else (found[0] - self._base[0], found[1] - self._base[1])
        if self._source != "tcp_info":
            return None
        connection = self._socket
        sent, received = tcp_bytes(connection) if connection is not None else (0, 0)
        return self._ended[0] + sent, self._ended[1] + received


LOOPBACK = "lo"


def interface_of(connection: socket.socket) -> str:
    """The interface with this connection's own address, `lo` for a loopback one; empty if there is none (IPv6)."""
    try:
        address = ipaddress.ip_address(connection.getsockname()[0])
    except (OSError, ValueError, IndexError):
        return ""
    if address.is_loopback:
        return LOOPBACK
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = array.array("B", struct.pack("256s", name.encode()[:15]))
            try:
                fcntl.ioctl(probe, _SIOCGIFADDR, request)
            except OSError:
                continue  # an interface without an IPv4 address
            if request.tobytes()[20:24] == address.packed:
                return name
    return ""


def interface_bytes(text: str, name: str) -> tuple[int, int] | None:
    """(sent, received) of an interface in /proc/net/dev; None if it is not there."""
    for line in text.splitlines():
        head, colon, rest = line.partition(":")
        words = rest.split()
        if colon and head.strip() == name and len(words) >= 9:
            return int(words[8]), int(words[0])
    return None


def tcp_bytes(connection: socket.socket) -> tuple[int, int]:
    """(sent, received) frames' bytes of a TCP connection, reckoned from TCP_INFO; zeros where it tells nothing."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
    except (OSError, AttributeError):
        return 0, 0
    if len(info) < TCP_INFO_BYTES:
        return 0, 0  # a kernel before 4.19 does not count sent bytes
    received, segments_out, segments_in = _RECEIVED.unpack_from(info, 128)
    (sent,) = _SENT.unpack_from(info, 200)
    return sent + segments_out * HEADER_BYTES, received + segments_in * HEADER_BYTES
