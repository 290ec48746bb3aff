"""What shaped links really are: python -m benchmarks.links [--json]

On containers, with every backend that works here: rates from 200 kbit/s to 200 Mbit/s in both directions and
the queue under overload; one-way delay while all other devices upload and burn their quota; jitter; loss
against its seeded sequence; what hostd's delay process costs with 20 devices at 20 Mbit/s in all.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.emulation_rig import Fleet, fleet
from emulation.cgroup import Cgroup
from emulation.cpu import burners
from emulation.judge import loss_plausible
from emulation.links import REGISTRY
from emulation.links.base import Backend, Direction, LinkEnds
from emulation.links.nfqueue import NfqueueBackend
from emulation.links.tbf import FRAME_BYTES, limit_bytes
from emulation.measure import LinkMeasurer
from emulation.scheduling import MEASURE_PRIORITY, going_first
from topology.plan import Link, Shape, Tolerance

RATES_BIT_S = (200_000, 1_000_000, 5_000_000, 20_000_000, 50_000_000, 100_000_000, 200_000_000)
DELAYS_S = (0.005, 0.02, 0.1)
PROBES = 300
LOSS, LOSS_PACKETS, LOSS_GAP_S = 0.02, 20_000, 0.00025
JITTER_S = 0.005
CPU_DEVICES, CPU_TOTAL_BIT_S, CPU_SECONDS = 20, 20_000_000, 8.0
LOAD_DEVICES, LOAD_CPUS = 10, 0.15
WIDE = Tolerance(rate=1.0, delay_s=1.0, delay=1.0)  # here errors are reported, not judged
UNSHAPED = Shape()


def counters_of(backend: Backend, ends: LinkEnds) -> dict[Direction, tuple[int, int]]:
    found = backend.counters(ends)
    return {way: (found.packets[way], found.dropped[way]) for way in found.packets}


def rates(backend: Backend, made: Fleet) -> list[dict[str, Any]]:
    """One link and direction at a time: rate, and the queue's delay, at 1.5 times the rate."""
    rows: list[dict[str, Any]] = []
    measurer = LinkMeasurer(lambda ends: counters_of(backend, ends))
    ends = made.ends(0)
    for rate in RATES_BIT_S:
        link = Link(name=str(rate), up=Shape(rate_bit_s=rate), down=Shape(rate_bit_s=rate))
        backend.apply(ends, link)
        ways: tuple[Direction, ...] = ("up", "down")
        for way in ways:
            got = measurer.measure([(ends, link)], WIDE, ways=[way])[ends.device][way].effective
            asked_s = limit_bytes(link.up) * 8 / rate
            slack_s = max(0.15 * asked_s, FRAME_BYTES * 8 / rate)
            queue_s = got.queue_s or 0.0
            rows.append(
                {
                    "rate_bit_s": rate,
                    "way": way,
                    "rate_error": round((got.rate_bit_s or 0.0) / rate - 1, 5),
                    "queue_s": round(queue_s, 5),
                    "queue_asked_s": round(asked_s, 5),
                    "queue_ok": abs(queue_s - asked_s) <= slack_s,
                    "queue_error": round(queue_s / asked_s - 1, 5),
                }
            )
        backend.clear(ends)
    return rows


# --- probes ------------------------------------------------------------------------------------------------


def udp(ends: LinkEnds, *, up: bool = True) -> tuple[socket.socket, socket.socket]:
    """(sender, receiver), the receiver blocking for at most a second."""
    sender_ns, receiver_ns = (ends.device_ns, ends.broker_ns) if up else (ends.broker_ns, ends.device_ns)

    def bound() -> socket.socket:
        handle = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        handle.bind(("0.0.0.0", 0))
        return handle

    receiver, sender = receiver_ns.call(bound), sender_ns.call(bound)
    receiver.settimeout(1.0)
    sender.connect((ends.broker_address if up else ends.address, receiver.getsockname()[1]))
    return sender, receiver


def probe(ends: LinkEnds, count: int, gap_s: float, *, up: bool = True) -> dict[int, float]:
    """One-way delay by sequence number of those that arrived."""
    sender, receiver = udp(ends, up=up)
    delays: dict[int, float] = {}

    def collect() -> None:
        with going_first(MEASURE_PRIORITY):
            while len(delays) < count:
                try:
                    data = receiver.recv(64)
                except TimeoutError:
                    return
                number, sent = struct.unpack("!Id", data)
                delays[number] = time.monotonic() - sent

    collector = threading.Thread(target=collect)
    with going_first(MEASURE_PRIORITY):
        collector.start()
        at = time.monotonic()
        for number in range(count):
            while (wait := at - time.monotonic()) > 0:
                time.sleep(wait)
            sender.send(struct.pack("!Id", number, time.monotonic()))
            at += gap_s
    collector.join()
    sender.close()
    receiver.close()
    return delays


def _upload(ends: list[LinkEnds], ready: Any) -> None:
    """In a process of its own, so that its interpreter's lock does not delay the probes."""

    def listen() -> socket.socket:
        handle = socket.socket()
        handle.bind(("0.0.0.0", 0))
        handle.listen(64)
        return handle

    def drain(handle: socket.socket) -> None:
        while handle.recv(65_536):
            pass

    def upload(handle: socket.socket) -> None:
        while True:
            handle.sendall(b"\0" * 16_384)

    server = ends[0].broker_ns.call(listen)
    for one in ends:
        address = (one.broker_address, server.getsockname()[1])
        client = one.device_ns.call(partial(socket.create_connection, address, 10.0))
        other, _ = server.accept()
        client.settimeout(None)
        for function, handle in ((upload, client), (drain, other)):
            threading.Thread(target=function, args=(handle,), daemon=True).start()
    ready.set()
    time.sleep(600)  # longer than any benchmark; it is ended from outside


@contextmanager
def uploads(ends: list[LinkEnds]) -> Iterator[None]:
    """Every one of these devices uploads over TCP as fast as its link lets it."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_upload, args=(ends, ready), daemon=True)
    process.start()
    try:
        if not ready.wait(30.0):
            raise RuntimeError("the uploads did not start within 30 s")
        yield
    finally:
        process.kill()
        process.join(10.0)


def delays_under_load(backend: Backend) -> list[dict[str, Any]]:
    """Probes of one idle device while nine others upload at 1 Mbit/s each and all burn their quota."""
    rows: list[dict[str, Any]] = []
    with fleet(LOAD_DEVICES, [LOAD_CPUS] * LOAD_DEVICES) as made:
        ends = [made.ends(index) for index in range(LOAD_DEVICES)]
        busy = Link(name="busy", up=Shape(rate_bit_s=1_000_000, delay_s=0.03), down=Shape(delay_s=0.03))
        for one in ends[1:]:
            backend.apply(one, busy)
        groups = {m.name: (Cgroup.of_pid(m.pid), LOAD_CPUS) for m in made.devices}
        with uploads(ends[1:]), burners(groups):
            time.sleep(1.0)
            for delay in DELAYS_S:
                link = Link(name="probed", up=Shape(delay_s=delay), down=Shape(delay_s=delay))
                backend.apply(ends[0], link)
                for up in (True, False):
                    found: list[float] = sorted(probe(ends[0], PROBES, 0.01, up=up).values())
                    median, p99 = float(statistics.median(found)), found[int(0.99 * (len(found) - 1))]
                    rows.append(
                        {
                            "delay_s": delay,
                            "way": "up" if up else "down",
                            "median_error_ms": round((median - delay) * 1e3, 4),
                            "p99_error_ms": round((p99 - delay) * 1e3, 4),
                            "median_ok": abs(median - delay) <= 0.001 + 0.01 * delay,
                            "p99_ok": p99 - delay <= 0.006,
                        }
                    )
        for one in ends:
            backend.clear(one)
    return rows


def jitter(backend: Backend, made: Fleet) -> list[dict[str, Any]]:
    rows = []
    ends = made.ends(0)
    shape = Shape(delay_s=0.05, jitter_s=JITTER_S)
    backend.apply(ends, Link(name="jitter", up=shape, down=shape))
    for up in (True, False):
        found = probe(ends, PROBES, 6 * JITTER_S, up=up)
        deviation: float = statistics.stdev(list(found.values()))
        rows.append({"way": "up" if up else "down", "error": round(deviation / JITTER_S - 1, 4)})
    backend.clear(ends)
    return rows


def loss(backend: Backend, made: Fleet) -> dict[str, Any]:
    """nfqueue: exactly the packets its seed says; others: a plausible number of them."""
    ends = made.ends(0, seed="bench")
    shape = Shape(delay_s=0.005, loss=LOSS)
    backend.apply(ends, Link(name="loss", up=shape, down=UNSHAPED))
    arrived = probe(ends, LOSS_PACKETS, LOSS_GAP_S)
    backend.clear(ends)
    lost = LOSS_PACKETS - len(arrived)
    row: dict[str, Any] = {
        "packets": LOSS_PACKETS,
        "lost": lost,
        "plausible": loss_plausible(lost, LOSS_PACKETS, LOSS),
    }
    if isinstance(backend, NfqueueBackend):
        sequence = random.Random(f"bench/{ends.device}/up/loss")
        expected = {n for n in range(LOSS_PACKETS) if sequence.random() >= LOSS}
        row["exact"] = expected == set(arrived)
        row["differences"] = len(expected ^ set(arrived))
    return row


# --- what it costs -----------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def cost(backend: NfqueueBackend, shape: Shape) -> float:
    """Share of one core the delay process uses while 20 devices send full frames, 20 Mbit/s in all."""
    with fleet(CPU_DEVICES) as made:
        ends = [made.ends(index) for index in range(CPU_DEVICES)]
        for one in ends:
            backend.apply(one, Link(name="cost", up=shape, down=UNSHAPED))
        pairs = [udp(one) for one in ends]
        stop = threading.Event()

        def collect() -> None:
            while not stop.is_set():
                for _, receiver in pairs:
                    receiver.setblocking(False)
                    try:
                        while receiver.recv(2048):
                            pass
                    except BlockingIOError:
                        continue
                time.sleep(0.01)

        collector = threading.Thread(target=collect)
        collector.start()
        gap = FRAME_BYTES * 8 * CPU_DEVICES / CPU_TOTAL_BIT_S
        payload = b"\0" * (FRAME_BYTES - 42)
        began, used = time.monotonic(), cpu_seconds(backend.delays.pid)
        turn = 0
        while (now := time.monotonic()) < began + CPU_SECONDS:
            sender = pairs[turn % CPU_DEVICES][0]
            turn += 1
            sender.send(payload)
            time.sleep(max(0.0, began + turn * gap / CPU_DEVICES - now))
        share = (cpu_seconds(backend.delays.pid) - used) / (time.monotonic() - began)
        stop.set()
        collector.join()
        for sender, receiver in pairs:
            sender.close()
            receiver.close()
        for one in ends:
            backend.clear(one)
        return share


def measure() -> dict[str, Any]:
    found: dict[str, Any] = {"backends": {}}
    for name in ("netem", "nfqueue"):
        backend = REGISTRY[name]()
        works = backend.probe()
        if not works.ok:
            found["backends"][name] = {"skipped": works.reason}
            continue
        backend.start()
        with fleet(1) as made:
            row: dict[str, Any] = {
                "rates": rates(backend, made),
                "jitter": jitter(backend, made),
                "loss": loss(backend, made),
            }
        row["delays"] = delays_under_load(backend)
        if isinstance(backend, NfqueueBackend):
            row["hostd_cpu_constant"] = round(cost(backend, Shape(delay_s=0.02)), 4)
            row["hostd_cpu_jitter"] = round(cost(backend, Shape(delay_s=0.02, jitter_s=0.005, loss=0.01)), 4)
        backend.stop()
        found["backends"][name] = row
    return found | summary([row for row in found["backends"].values() if "skipped" not in row])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures with bounds, over all backends that ran."""
    every = [one for row in rows for one in row["rates"]]
    delays = [one for row in rows for one in row["delays"]]
    costs: dict[str, Any] = {
        key: max((row[key] for row in rows if key in row), default=None) for key in COSTS
    }
    return {
        "rate_error_max": max(abs(one["rate_error"]) for one in every),
        "queue_error_max": max(abs(one["queue_error"]) for one in every),
        "queue_ok": all(one["queue_ok"] for one in every),
        "delay_error_ms_median": max(abs(one["median_error_ms"]) for one in delays),
        "delay_error_ms_p99": max(one["p99_error_ms"] for one in delays),
        "delay_ok": all(one["median_ok"] and one["p99_ok"] for one in delays),
        "jitter_error_max": max(abs(one["error"]) for row in rows for one in row["jitter"]),
        "loss_ok": all(row["loss"].get("exact", row["loss"]["plausible"]) for row in rows),
        **costs,
        "load_average": round(os.getloadavg()[0], 2),
    }


COSTS = ("hostd_cpu_constant", "hostd_cpu_jitter")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="for machines")
    as_json = parser.parse_args().json
    found = measure()
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        for key, value in found.items():
            if key != "backends":
                print(f"{key:24} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
