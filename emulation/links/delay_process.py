"""The process that holds packets back: one for all links of a host, whatever their namespaces.

It is a process of its own so that nothing hostd does (Docker, files, garbage) makes a packet late, and it is
scheduled before everything else where the kernel allows it. hostd opens each queue's socket inside its
namespace and passes it here with a JSON message over a Unix socket pair; when that pair closes, hostd is gone
and so is this process (the rules say --queue-bypass, so containers keep their traffic).

Run as `python -m emulation.links.delay_process <descriptor>` by `emulation.links.delay_client`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import struct
import sys
from dataclasses import asdict
from time import monotonic, sleep
from typing import Any

import msgspec

from emulation.links import nfnetlink
from emulation.links.delay_client import CONTROL_BYTES
from emulation.links.delay_line import (
    CORRUPT,
    DROP,
    HOLD,
    OVERTAKE,
    BitFlipper,
    DelayLine,
    LineShape,
    tick_s,
)
from emulation.scheduling import DELAY_PRIORITY, go_first

READS_PER_TURN = 256  # per queue and turn, so that one flooded queue cannot starve the others
PR_SET_TIMERSLACK = 29
CLOCK_MONOTONIC, TFD_NONBLOCK, TFD_CLOEXEC, TFD_TIMER_ABSTIME = 1, 0o4000, 0o2000000, 1

_libc = ctypes.CDLL(None, use_errno=True)


class Timer:
    """A timerfd: wakes epoll at a time of CLOCK_MONOTONIC to the microsecond (epoll's own timeout counts in
    ms).
    """

    def __init__(self) -> None:
        self.descriptor: int = _libc.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._armed_s: float | None = None

    def arm(self, at_s: float | None) -> None:
        if at_s == self._armed_s:
            return
        nanoseconds = 0 if at_s is None else max(1, int(at_s * 1e9))
        value = struct.pack("=qqqq", 0, 0, nanoseconds // 1_000_000_000, nanoseconds % 1_000_000_000)
        _libc.timerfd_settime(self.descriptor, TFD_TIMER_ABSTIME, value, None)
        self._armed_s = at_s

    def acknowledge(self) -> None:
        self._armed_s = None
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 8)


class QueueLine:
    """One queue's socket and its line. `corrupted` are the bytes that held packets will have when they are let go."""

    def __init__(self, handle: socket.socket, queue: int, line: DelayLine) -> None:
        self.handle, self.queue, self.line = handle, queue, line
        self.corrupted: dict[int, bytes] = {}
        self._flipper = BitFlipper(line.seed)
        self._read_bytes = nfnetlink.READ_BYTES
        self._corrupts = False

    def change(self, shape: LineShape, length: int) -> None:
        """`length`: packets that may wait. Asks for payloads only while some have to be changed."""
        self.line.change(shape)
        self.handle.send(nfnetlink.holding(self.queue, length))
        if (shape.corrupt > 0) != self._corrupts:
            self._corrupts = shape.corrupt > 0
            self.handle.send(nfnetlink.copying(self.queue, self._corrupts))
            self._read_bytes = nfnetlink.READ_BYTES_WITH_PAYLOAD if self._corrupts else nfnetlink.READ_BYTES

    def read(self, arrived_s: float) -> None:
        """Take what has arrived since the last turn; one message is one packet, whose id is at a fixed place."""
        receive, arrive, read_bytes = self.handle.recv, self.line.arrive, self._read_bytes
        for _ in range(READS_PER_TURN):
            try:
                data = receive(read_bytes)
            except BlockingIOError:
                return
            if data[4:6] == nfnetlink.PACKET_TYPE_BYTES:
                packet = int.from_bytes(data[24:28], "big")
                decision = arrive(packet, arrived_s)
                if decision != HOLD:
                    self._decided(packet, decision, data)

    def _decided(self, packet: int, decision: int, data: bytes) -> None:
        """What is not simply held: lost, let go at once, or to be changed."""
        if decision == DROP:
            self.handle.send(nfnetlink.verdict(self.queue, packet, nfnetlink.VERDICT_DROP))
            return
        if decision & CORRUPT:
            payload = nfnetlink.payload_of(data)
            if payload is not None:
                self.corrupted[packet] = self._flipper.flip(payload)
        if decision & OVERTAKE:
            self._let_go(packet)

    def _let_go(self, packet: int) -> None:
        changed = self.corrupted.pop(packet, None)
        if changed is None:
            self.handle.send(nfnetlink.verdict(self.queue, packet, nfnetlink.VERDICT_ACCEPT))
        else:
            self.handle.send(nfnetlink.replace(self.queue, packet, changed))

    def release(self, now: float) -> None:
        last = self.line.release(now)
        if last is None:
            return
        if self.corrupted:
            for packet in sorted(packet for packet in self.corrupted if packet <= last):
                self.handle.send(nfnetlink.accept_up_to(self.queue, packet - 1))
                self._let_go(packet)
        self.handle.send(nfnetlink.accept_up_to(self.queue, last))  # synchronous: netlink never queues this


class DelayProcess:
    """Commands are maps: `op` bind (with the socket), change, unbind, stats; each gets one answer with `ok`."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lines: dict[str, QueueLine] = {}
        self._by_descriptor: dict[int, QueueLine] = {}
        self._epoll = select.epoll()
        self._timer = Timer()
        self._tick_s = tick_s(1.0)
        self._epoll.register(control.fileno(), select.EPOLLIN)
        self._epoll.register(self._timer.descriptor, select.EPOLLIN)

    def serve(self) -> None:
        """Until the other end of the control socket closes.

        A turn that comes sooner than one tick after the last waits for the tick, so that dense traffic is handled in
        batches: packets then count as having arrived in the middle of the tick and are let go when due within half
        a tick, which is right on average and wrong by half a tick at most. Sparse packets are handled at once.
        """
        last = 0.0
        while True:
            events = self._epoll.poll()
            now = monotonic()
            busy = now - last < self._tick_s
            if busy:
                sleep(self._tick_s - (now - last))
                events = self._epoll.poll(0)
                now = monotonic()
            half = (now - last) / 2 if busy else 0.0
            last = now
            if not self._take(events, now - half):
                return
            self._release(now + half)

    def _take(self, events: list[tuple[int, int]], arrived_s: float) -> bool:
        """False when hostd is gone."""
        for descriptor, _ in events:
            if descriptor == self._timer.descriptor:
                self._timer.acknowledge()
            elif descriptor == self._control.fileno():
                if not self._command():
                    return False
            elif descriptor in self._by_descriptor:
                self._by_descriptor[descriptor].read(arrived_s)
        return True

    def _release(self, until_s: float) -> None:
        """Let go what is due, and be woken for the next."""
        earliest: float | None = None
        for entry in self._lines.values():
            due = entry.line.next_due_s
            if due is None:
                continue
            if due <= until_s:
                entry.release(until_s)
                due = entry.line.next_due_s
            if due is not None and (earliest is None or due < earliest):
                earliest = due
        self._timer.arm(earliest)

    def _command(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._control, CONTROL_BYTES, 1)
        if not data:
            return False
        try:
            answer = self._execute(msgspec.json.decode(data), descriptors)
        except (KeyError, ValueError, OSError) as error:
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        self._control.send(msgspec.json.encode(answer))
        return True

    def _execute(self, command: dict[str, Any], descriptors: list[int]) -> dict[str, object]:
        match command["op"]:
            case "bind":
                self._unbind(command["line"])
                handle = socket.socket(fileno=descriptors[0])
                shape = msgspec.convert(command["shape"], LineShape)
                entry = QueueLine(handle, int(command["queue"]), DelayLine(shape, command["seed"]))
                entry.change(shape, int(command["length"]))
                self._lines[command["line"]] = self._by_descriptor[handle.fileno()] = entry
                self._epoll.register(handle.fileno(), select.EPOLLIN)
            case "change":
                shape = msgspec.convert(command["shape"], LineShape)
                self._lines[command["line"]].change(shape, int(command["length"]))
            case "unbind":
                self._unbind(command["line"])
            case "stats":
                return {
                    "ok": True,
                    "lines": {name: self._stats(entry) for name, entry in self._lines.items()},
                }
            case "hello":
                return {"ok": True, "pid": os.getpid(), "scheduling": SCHEDULING[0]}
            case other:
                raise ValueError(f"unknown command {other!r}")
        shortest = min(
            (e.line.shape.delay_s for e in self._lines.values() if e.line.shape.delay_s > 0), default=1.0
        )
        self._tick_s = tick_s(shortest)
        return {"ok": True}

    def _unbind(self, name: str) -> None:
        entry = self._lines.pop(name, None)
        if entry is not None:
            descriptor = entry.handle.fileno()
            self._epoll.unregister(descriptor)
            del self._by_descriptor[descriptor]
            entry.handle.close()

    @staticmethod
    def _stats(entry: QueueLine) -> dict[str, object]:
        return asdict(entry.line.counters) | {"held": entry.line.held, "shape": entry.line.shape}


SCHEDULING = ["default"]


def main(argv: list[str]) -> int:
    _libc.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is hostd's to handle; closing the pair ends this process
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    SCHEDULING[0] = go_first(DELAY_PRIORITY)
    control = socket.socket(fileno=int(argv[1]))
    server = DelayProcess(control)
    gc.disable()  # nothing here makes cycles, and a collection would make packets late
    server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
