"""Packets for the links benchmark: spaced probes over many links, uploads, paced full frames."""

from __future__ import annotations

import multiprocessing
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from emulation.links.base import Direction, LinkEnds
from emulation.links.tbf import FRAME_BYTES
from emulation.scheduling import MEASURE_PRIORITY, going_first

UDP_HEADER_BYTES = 42
TCP_CONGESTION = getattr(socket, "TCP_CONGESTION", 13)
QUIET_S = 0.5
Flow = tuple[LinkEnds, Direction]


def udp(ends: LinkEnds, way: Direction) -> tuple[socket.socket, socket.socket]:
    """(sender, receiver) in the namespaces of the link's ends; neither blocks."""
    sender_ns, receiver_ns = (
        (ends.device_ns, ends.broker_ns) if way == "up" else (ends.broker_ns, ends.device_ns)
    )

    def bound() -> socket.socket:
        handle = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        handle.bind(("0.0.0.0", 0))
        handle.setblocking(False)
        return handle

    receiver, sender = receiver_ns.call(bound), sender_ns.call(bound)
    sender.connect((ends.broker_address if way == "up" else ends.address, receiver.getsockname()[1]))
    return sender, receiver


def probe(flows: Sequence[Flow], count: int, gap_s: float, longest_s: float) -> list[dict[int, float]]:
    """One-way delay by sequence number of the probes that arrived, of each flow. Every flow sends one each `gap_s`."""
    pairs = [udp(ends, way) for ends, way in flows]
    found: list[dict[int, float]] = [{} for _ in flows]
    with selectors.DefaultSelector() as selector, going_first(MEASURE_PRIORITY):
        for index, (_, receiver) in enumerate(pairs):
            selector.register(receiver, selectors.EVENT_READ, index)

        def collect(until_s: float) -> None:
            while True:
                wait_s = until_s - time.monotonic()
                for key, _ in selector.select(max(0.0, wait_s)):
                    _drain(pairs[key.data][1], found[key.data])
                if wait_s <= 0:
                    return

        start = time.monotonic() + 0.01
        for number in range(count * len(flows)):
            collect(start + number * gap_s / len(flows))
            sender = pairs[number % len(flows)][0]
            sender.send(struct.pack("!Id", number // len(flows), time.monotonic()))
        collect(time.monotonic() + longest_s + QUIET_S)
    for pair in pairs:
        for handle in pair:
            handle.close()
    return found


def _drain(receiver: socket.socket, delays: dict[int, float]) -> None:
    while True:
        try:
            data = receiver.recv(64)
        except BlockingIOError:
            return
        number, sent = struct.unpack("!Id", data)
        delays[number] = time.monotonic() - sent


# --- TCP ---------------------------------------------------------------------------------------------------


def _transfer(ends: list[LinkEnds], controls: list[str], ready: Any, received: Any) -> None:
    """In a process of its own, so that its interpreter's lock does not delay the probes."""

    def listen() -> socket.socket:
        handle = socket.socket()
        handle.bind(("0.0.0.0", 0))
        handle.listen(64)
        return handle

    def connect(address: tuple[str, int], control: str) -> socket.socket:
        handle = socket.socket()
        if control:
            handle.setsockopt(socket.IPPROTO_TCP, TCP_CONGESTION, control.encode())
        handle.settimeout(10.0)
        handle.connect(address)
        handle.settimeout(None)
        return handle

    def drain(handle: socket.socket, index: int) -> None:
        while size := len(handle.recv(65_536)):
            received[index] += size

    def upload(handle: socket.socket) -> None:
        while True:
            handle.sendall(b"\0" * 16_384)

    server = ends[0].broker_ns.call(listen)
    for index, (one, control) in enumerate(zip(ends, controls, strict=True)):
        address = (one.broker_address, server.getsockname()[1])
        client = one.device_ns.call(partial(connect, address, control))
        other, _ = server.accept()
        threading.Thread(target=upload, args=(client,), daemon=True).start()
        threading.Thread(target=drain, args=(other, index), daemon=True).start()
    ready.set()
    time.sleep(600)  # longer than any benchmark; it is ended from outside


@contextmanager
def uploads(ends: list[LinkEnds], controls: list[str] | None = None) -> Iterator[Any]:
    """Every one of these devices uploads over TCP as fast as its link lets it; yields bytes received by device."""
    context = multiprocessing.get_context("fork")
    ready, received = context.Event(), context.Array("Q", len(ends), lock=False)
    arguments = (ends, controls or [""] * len(ends), ready, received)
    process = context.Process(target=_transfer, args=arguments, daemon=True)
    process.start()
    try:
        if not ready.wait(30.0):
            raise RuntimeError("the uploads did not start within 30 s")
        yield received
    finally:
        process.kill()
        process.join(10.0)


# --- full frames at a rate ---------------------------------------------------------------------------------


@contextmanager
def frames(ends: list[LinkEnds], total_bit_s: int) -> Iterator[None]:
    """All these devices send full frames in turn, `total_bit_s` together, from a process of its own."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_frames, args=(ends, total_bit_s), daemon=True)
    process.start()
    try:
        time.sleep(1.0)
        yield
    finally:
        process.kill()
        process.join(10.0)


def _frames(ends: list[LinkEnds], total_bit_s: int) -> None:
    pairs = [udp(one, "up") for one in ends]
    payload = b"\0" * (FRAME_BYTES - UDP_HEADER_BYTES)
    gap_s, began, turn = FRAME_BYTES * 8 / total_bit_s, time.monotonic(), 0
    while True:
        sender, receiver = pairs[turn % len(pairs)]
        turn += 1
        try:
            sender.send(payload)
            while receiver.recv(2048):
                pass
        except BlockingIOError:
            pass
        time.sleep(max(0.0, began + turn * gap_s - time.monotonic()))
