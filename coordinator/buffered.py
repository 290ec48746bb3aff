"""A paho client that reads and writes in bulk.

paho asks the socket for one byte, then one to four, then the rest, and sends every packet by itself: at least four
system calls for each packet, and with a second thread at work each of them gives up the interpreter's lock and waits to
get it back. Here a socket is read as far as it goes and paho is served from memory; what paho sends in one pass of its
loop leaves in one piece at the start of the next. `pending`, which that loop asks before every wait, tells it that
there is more to read, as a TLS socket does, and is where the collected packets go out. The byte by which paho wakes its
loop for every packet is written only when none is waiting. And a PUBACK that says nothing but its number, as nearly
all do, is not unpacked into objects: that takes paho longer than everything else that it does with it.
"""

from __future__ import annotations

import select
import ssl
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

READ_BYTES = 262_144  # a dozen chunks; what the kernel holds for a loopback connection at most
COLLECT_BYTES = 131_072  # two chunks: more in one piece saves nothing
SEND_S_MAX = 10.0  # a broker that takes nothing for so long is gone


class BufferedSocket:
    """Everything but reading and writing is the socket's own. For paho's loop thread only."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._data = b""
        self._at = 0
        self._out = bytearray()
        self._broken: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def fileno(self) -> int:
        return int(self._sock.fileno())

    def pending(self) -> int:
        """Bytes that `recv` has without waiting, and that no select would report. Sends what was collected.

        paho's loop expects no error here: a connection that broke says so at the next `recv`, which it then asks for.
        """
        try:
            self.flush()
        except OSError as error:
            self._broken = error
            return 1
        inner = self._sock.pending() if hasattr(self._sock, "pending") else 0
        return len(self._data) - self._at + int(inner)

    def recv(self, size: int) -> bytes:
        if self._broken is not None:
            raise self._broken
        at = self._at
        if at >= len(self._data):
            self._data, self._at, at = self._sock.recv(READ_BYTES), 0, 0
        piece = self._data[at : at + size]
        self._at = at + len(piece)
        return piece

    def send(self, data: bytes | bytearray | memoryview) -> int:
        self._out += data
        if len(self._out) >= COLLECT_BYTES:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Raises OSError when the broker does not take it."""
        while self._out:
            try:
                del self._out[: self._sock.send(self._out)]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._await(writing=True)
            except ssl.SSLWantReadError:
                self._await(writing=False)

    def _await(self, *, writing: bool) -> None:
        wanted = [self._sock]
        ready = select.select([] if writing else wanted, wanted if writing else [], [], SEND_S_MAX)
        if not any(ready):
            raise TimeoutError(f"the broker took nothing for {SEND_S_MAX:g} s")

    def close(self) -> None:
        try:
            self.flush()
        except OSError:
            self._out.clear()  # it is closed because it is broken
        self._sock.close()


class _Wake:
    """Both ends of the pair by which paho wakes its loop: one byte until it is read, not one for every packet."""

    def __init__(self, end: Any, other: _Wake | None = None) -> None:
        self._end, self._reader = end, other or self
        self.waiting = False  # the reader's: a byte is in the pipe

    def __getattr__(self, name: str) -> Any:
        return getattr(self._end, name)

    def fileno(self) -> int:
        return int(self._end.fileno())

    def send(self, data: bytes) -> int:
        if not self._reader.waiting:
            self._reader.waiting = True
            self._end.send(data)
        return len(data)

    def recv(self, size: int) -> bytes:
        self.waiting = False  # before it is read: a packet queued from here on wakes the loop once more
        return bytes(self._end.recv(size))


# What a PUBACK of two bytes says; nobody asks us for more of it.
TAKEN = ReasonCode(PacketTypes.PUBACK)
NO_PROPERTIES = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]


class BufferedClient(paho.Client):
    _wake_reader: _Wake | None = None
    _wake_writer: _Wake | None = None

    @property
    def _sockpairR(self) -> Any:
        return self._wake_reader

    @_sockpairR.setter
    def _sockpairR(self, end: Any) -> None:
        self._wake_reader = None if end is None else _Wake(end)

    @property
    def _sockpairW(self) -> Any:
        return self._wake_writer

    @_sockpairW.setter
    def _sockpairW(self, end: Any) -> None:  # paho sets it right after the reading end
        self._wake_writer = None if end is None else _Wake(end, self._wake_reader)

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if cmd != "PUBACK" or len(packet) != 2:
            return super()._handle_pubackcomp(cmd)
        mid = int.from_bytes(packet, "big")
        with self._out_message_mutex:
            if mid in self._out_messages:
                return self._do_on_publish(mid, TAKEN, NO_PROPERTIES)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _create_socket(self) -> Any:
        return BufferedSocket(super()._create_socket())
