"""Many MQTT 3.1.1 clients from one process: a few hundred lines less than a client library, and a tenth of its time.

    python -m benchmarks.mqtt_load PORT RUN FIRST COUNT MODE BYTES

Only what a load needs: CONNECT, SUBSCRIBE, PUBLISH at QoS 1 in both directions, PINGREQ. One epoll serves all sockets.
MODE is `bare` (publish an update, wait for one reply, publish the next) or `agent` (the agent's side of the protocol:
hello, task, offer, grant, chunk, ack; without grant and chunk where the task has room for the update in its offer).
Commands come on standard input: `start`, `report` (one JSON line), `stop`.
"""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import socket
import struct
import sys
import time
from typing import Any

import msgspec

from wire import chunks, topics
from wire import messages as m

KEEPALIVE_S = 600
CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, PINGREQ = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90, 0xC0
REPORT = m.Report(
    samples=50, steps=5, loss=1.0, train_s=0.1, step_s=0.02, fetch_s=0.0, fetch_bytes=0,
    peak_rss_bytes=1, residual_norm=0.0, raw_bytes=20_000,
)  # fmt: skip


class _Named(msgspec.Struct):
    task: str
    inline_bytes: int = 0


_task_of = msgspec.msgpack.Decoder(_Named)


def length_field(size: int) -> bytes:
    out = bytearray()
    while True:
        size, digit = divmod(size, 128)
        out.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(out)


def text(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


def packet(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + length_field(len(body)) + body


class Client:
    """One connection. `on_message(client, kind of topic, payload)`."""

    def __init__(self, load: Load, name: str) -> None:
        self.load, self.name = load, name
        self.sock = socket.create_connection(("127.0.0.1", load.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        self.out = bytearray()
        self.next_id = 1
        self.ready = False
        body = text(b"MQTT") + bytes([4, 2]) + struct.pack(">H", KEEPALIVE_S) + text(name.encode())
        self.sock.sendall(packet(CONNECT, body))
        wanted = topics.down(load.run, name, "#").encode()
        self.sock.sendall(packet(SUBSCRIBE, struct.pack(">H", 1) + text(wanted) + b"\1"))
        self.sock.setblocking(False)
        load.selector.register(self.sock, selectors.EVENT_READ, self)

    def publish(self, topic: str, payload: bytes) -> None:
        self.next_id = self.next_id % 65_535 + 1
        head = text(topic.encode()) + struct.pack(">H", self.next_id)
        self.send(bytes([PUBLISH | 2]) + length_field(len(head) + len(payload)) + head + payload)

    def send(self, data: bytes) -> None:
        if not self.out:
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
            self.load.selector.modify(self.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self)
        self.out += data

    def writable(self) -> None:
        try:
            del self.out[: self.sock.send(self.out)]
        except BlockingIOError:
            return
        if not self.out:
            self.load.selector.modify(self.sock, selectors.EVENT_READ, self)

    def readable(self) -> None:
        try:
            data = self.sock.recv(65_536)
        except BlockingIOError:
            return
        if not data:
            raise RuntimeError(f"{self.name}: the broker closed the connection")
        self.buffer += data
        at, size = 0, len(self.buffer)
        while True:
            end = self._one(at, size)
            if end is None:
                break
            at = end
        del self.buffer[:at]

    def _one(self, at: int, size: int) -> int | None:
        """Handle the packet at `at`; where it ends, or None if it is not all here."""
        length, shift, place = 0, 0, at + 1
        while True:
            if place >= size:
                return None
            digit = self.buffer[place]
            place += 1
            length |= (digit & 0x7F) << shift
            shift += 7
            if digit < 0x80:
                break
        if place + length > size:
            return None
        kind, body = self.buffer[at] & 0xF0, bytes(self.buffer[place : place + length])
        if kind == PUBLISH:
            self._published(self.buffer[at], body)
        elif kind == SUBACK & 0xF0:
            self.ready = True
            self.load.ready += 1
        return place + length

    def _published(self, first: int, body: bytes) -> None:
        (size,) = struct.unpack_from(">H", body)
        topic, at = body[2 : 2 + size], 2 + size
        if first & 0x06:
            self.send(bytes([PUBACK, 2]) + body[at : at + 2])
            at += 2
        self.load.take(self, topic.rpartition(b"/")[2], body[at:])


class Load:
    def __init__(self, port: int, run: str, names: list[str], mode: str, payload: bytes) -> None:
        self.port, self.run, self.mode = port, run, mode
        self.payload = payload
        self.sha256 = hashlib.sha256(payload).hexdigest()
        (self.chunk,) = chunks.split(payload, 65_536)
        self.selector = selectors.DefaultSelector()
        self.ready = 0
        self.acked = 0
        self.offered = 0
        self.clients = []
        for name in names:
            self.clients.append(Client(self, name))
            self.poll(0.0)
        deadline = time.monotonic() + 60
        while self.ready < len(names) and time.monotonic() < deadline:
            self.poll(0.1)
        if self.ready < len(names):
            raise RuntimeError(f"only {self.ready} of {len(names)} clients were let in")

    def poll(self, timeout_s: float) -> None:
        for key, events in self.selector.select(timeout_s):
            if key.data is None:
                self.command()
                continue
            if events & selectors.EVENT_WRITE:
                key.data.writable()
            if events & selectors.EVENT_READ:
                key.data.readable()

    # --- what an agent does ----------------------------------------------------------------------------------

    def start(self) -> None:
        for client in self.clients:
            if self.mode == "bare":
                self.update(client, "r1-t1")
            else:
                self.say(client, m.Hello(boot="b", samples=50))

    def update(self, client: Client, task: str) -> None:
        client.publish(topics.chunk(self.run, client.name, task, 0), self.chunk)

    def say(self, client: Client, message: m.Up) -> None:
        client.publish(topics.up(self.run, client.name, type(message).__name__.lower()), m.encode(message))

    def take(self, client: Client, kind: bytes, payload: bytes) -> None:
        if kind == b"ack":
            self.acked += 1
            if self.mode == "bare":
                self.update(client, "r1-t1")
        elif kind == b"task":
            self.offered += 1
            order = _task_of.decode(payload)
            inline = self.payload if len(self.payload) <= order.inline_bytes else b""
            size = len(self.payload)
            self.say(
                client, m.Offer(task=order.task, sha256=self.sha256, bytes=size, report=REPORT, update=inline)
            )
        elif kind == b"grant":
            self.update(client, _task_of.decode(payload).task)
        elif kind == b"resync":
            self.say(client, m.Hello(boot="b", samples=50))

    # --- the benchmark's hand ---------------------------------------------------------------------------------

    def command(self) -> None:
        for line in os.read(0, 4096).decode().splitlines():
            if line == "start":
                self.start()
            elif line == "stop":
                sys.exit(0)
            said: dict[str, Any] = {"acked": self.acked, "offered": self.offered, "at_s": time.monotonic()}
            print(json.dumps(said), flush=True)

    def serve(self) -> None:
        os.set_blocking(0, False)
        self.selector.register(0, selectors.EVENT_READ, None)
        print(json.dumps({"ready": self.ready}), flush=True)
        while True:
            self.poll(1.0)


def main() -> None:
    port, run, first, count, mode, path = sys.argv[1:7]
    names = [f"d-{number}" for number in range(int(first), int(first) + int(count))]
    with open(path, "rb") as file:
        payload = file.read()
    Load(int(port), run, names, mode, payload).serve()


if __name__ == "__main__":
    main()
