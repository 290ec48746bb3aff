"""The kernel's packet queue (nfnetlink_queue) by a raw netlink socket: bytes in, bytes out.

Source of the layout: linux/netfilter/nfnetlink_queue.h and nfnetlink.h. Only metadata is copied
(NFQNL_COPY_META): a packet costs some hundred bytes of netlink message and its payload never leaves the
kernel. Only a queue that corrupts packets asks for the payloads too, to give one back changed.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

NETLINK_NETFILTER = 12
SUBSYSTEM_QUEUE = 3
MESSAGE_PACKET, MESSAGE_VERDICT, MESSAGE_CONFIG, MESSAGE_VERDICT_BATCH = 0, 1, 2, 3
ATTRIBUTE_CONFIG_COMMAND, ATTRIBUTE_CONFIG_PARAMS, ATTRIBUTE_CONFIG_LENGTH = 1, 2, 3
ATTRIBUTE_CONFIG_MASK, ATTRIBUTE_CONFIG_FLAGS = 4, 5
ATTRIBUTE_VERDICT, ATTRIBUTE_PAYLOAD = 2, 10
COMMAND_BIND = 1
COPY_META, COPY_PACKET = 1, 2
COPY_BYTES = 0xFFFF
FLAG_GSO = 1 << 2  # take super-packets as they are instead of having the kernel split and checksum them
VERDICT_DROP, VERDICT_ACCEPT = 0, 1
FLAG_REQUEST, FLAG_ACK = 1, 4
NETLINK_ERROR = 2
SO_RCVBUFFORCE, SOL_NETLINK, NETLINK_NO_ENOBUFS = 33, 270, 5
# A message takes about 800 bytes of the socket's buffer: room for some 20,000 packets not yet read.
RECEIVE_BUFFER_BYTES = 16 << 20
READ_BYTES = 8192  # one message per packet, metadata only: about 150 bytes
READ_BYTES_WITH_PAYLOAD = COPY_BYTES + 8192
ANSWER_WAIT_S = 5.0

_PACKET_TYPE = SUBSYSTEM_QUEUE << 8 | MESSAGE_PACKET
PACKET_TYPE_BYTES = struct.pack("=H", _PACKET_TYPE)  # what a packet's message has at offset 4


class QueueError(RuntimeError):
    """The kernel refused a queue: no CAP_NET_ADMIN, no NFQUEUE, or another process holds that number."""


def attribute(kind: int, data: bytes) -> bytes:
    raw = struct.pack("=HH", 4 + len(data), kind) + data
    return raw + b"\0" * (-len(raw) % 4)


def message(kind: int, queue: int, body: bytes, *, flags: int = FLAG_REQUEST) -> bytes:
    body = struct.pack("!BBH", 0, 0, queue) + body
    return struct.pack("=IHHII", 16 + len(body), SUBSYSTEM_QUEUE << 8 | kind, flags, 0, 0) + body


def verdict(queue: int, packet: int, decision: int) -> bytes:
    return message(MESSAGE_VERDICT, queue, attribute(ATTRIBUTE_VERDICT, struct.pack("!II", decision, packet)))


def accept_up_to(queue: int, packet: int) -> bytes:
    """Accept this packet and every one of the queue with a lower id."""
    body = attribute(ATTRIBUTE_VERDICT, struct.pack("!II", VERDICT_ACCEPT, packet))
    return message(MESSAGE_VERDICT_BATCH, queue, body)


def replace(queue: int, packet: int, payload: bytes) -> bytes:
    """Accept this packet with other bytes."""
    body = attribute(ATTRIBUTE_VERDICT, struct.pack("!II", VERDICT_ACCEPT, packet))
    return message(MESSAGE_VERDICT, queue, body + attribute(ATTRIBUTE_PAYLOAD, payload))


def payload_of(data: bytes) -> bytes | None:
    """The packet itself, from its IP header on, in a message that has it."""
    at = 20
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            return None  # not an attribute; never loop on it
        if kind & 0x3FFF == ATTRIBUTE_PAYLOAD:
            return data[at + 4 : at + size]
        at += size + 3 & ~3
    return None


def copying(queue: int, payloads: bool) -> bytes:
    """Ask for payloads beside the metadata, or not. With them checksums are made whole in the kernel first (no GSO
    flag), so that whoever receives a changed packet can tell.
    """
    mode, size = (COPY_PACKET, COPY_BYTES) if payloads else (COPY_META, 0)
    body = attribute(ATTRIBUTE_CONFIG_PARAMS, struct.pack("!IB", size, mode))
    body += attribute(ATTRIBUTE_CONFIG_MASK, struct.pack("!I", FLAG_GSO))
    body += attribute(ATTRIBUTE_CONFIG_FLAGS, struct.pack("!I", 0 if payloads else FLAG_GSO))
    return message(MESSAGE_CONFIG, queue, body)


def holding(queue: int, packets: int) -> bytes:
    """Change how many packets may wait."""
    return message(MESSAGE_CONFIG, queue, attribute(ATTRIBUTE_CONFIG_LENGTH, struct.pack("!I", packets)))


def packet_ids(data: bytes) -> list[int]:
    """Ids of the packets in what one `recv` returned; the packet header is always the first attribute."""
    found: list[int] = []
    at = 0
    while at + 28 <= len(data):
        size, kind = struct.unpack_from("=IH", data, at)
        if kind == _PACKET_TYPE:
            found.append(struct.unpack_from("!I", data, at + 24)[0])
        if size < 16:
            break  # not a netlink message; never loop on it
        at += size + 3 & ~3
    return found


def open_queue(queue: int, length: int) -> socket.socket:
    """A non-blocking socket that owns `queue` in the namespace of the calling thread; at most `length`
    packets wait.

    Beyond that the kernel drops (no fail-open: a packet that skipped its delay would be a lie; a drop is
    counted). Raises QueueError.
    """
    handle = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    try:
        handle.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        handle.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
        handle.bind((0, 0))
        handle.settimeout(ANSWER_WAIT_S)
        bind = struct.pack("!BBH", COMMAND_BIND, 0, socket.AF_INET)
        flags = struct.pack("!I", FLAG_GSO)
        for body in (
            attribute(ATTRIBUTE_CONFIG_COMMAND, bind),
            attribute(ATTRIBUTE_CONFIG_PARAMS, struct.pack("!IB", 0, COPY_META)),
            attribute(ATTRIBUTE_CONFIG_LENGTH, struct.pack("!I", length)),
            attribute(ATTRIBUTE_CONFIG_MASK, flags) + attribute(ATTRIBUTE_CONFIG_FLAGS, flags),
        ):
            _configure(handle, queue, body)
    except BaseException:
        handle.close()
        raise
    handle.setblocking(False)
    return handle


def _configure(handle: socket.socket, queue: int, body: bytes) -> None:
    handle.send(message(MESSAGE_CONFIG, queue, body, flags=FLAG_REQUEST | FLAG_ACK))
    while True:
        try:
            data = handle.recv(READ_BYTES)
        except TimeoutError:
            raise QueueError(
                f"queue {queue}: the kernel did not answer within {ANSWER_WAIT_S:.0f} s"
            ) from None
        for packet in packet_ids(data):  # the rule was there before us: let them pass, they are not ours yet
            handle.send(verdict(queue, packet, VERDICT_ACCEPT))
        if struct.unpack_from("=H", data, 4)[0] == NETLINK_ERROR:
            code = -struct.unpack_from("=i", data, 16)[0]
            if code:
                hint = " (another process holds it)" if code in (errno.EPERM, errno.EBUSY) else ""
                raise QueueError(f"queue {queue}: {os.strerror(code)}{hint}")
            return
