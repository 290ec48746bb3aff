"""What shaped links really are: python -m benchmarks.links [--json]

On containers (idle ones of the project's image on a Docker network of their own; traffic between sockets in their
namespaces), with every backend that works here: rates from 200 kbit/s to 200 Mbit/s and the named profiles, both
directions, and the queue under overload; one-way delay while all other devices upload and burn their quota; jitter of
each kind; loss against its seeded sequence; TCP goodput by congestion control; what hostd costs with 20 devices at
20 Mbit/s in all. The machine has to be quiet.

Figures with a bound, over all backends and rows:
rate_error_max         relative; at most 0.02
queue_error_max        relative, to the larger of the queue and what makes one frame 15 %; at most 0.15
delay_error_ms_median  beyond 1 % of the delay; at most 1
delay_error_ms_p99     late by; at most 6
jitter_error_max       relative; at most 0.10
loss_ok                nfqueue: exactly the seeded packets; others: a plausible number
hostd_cpu_constant, hostd_cpu_jitter   cores; at most 0.15 and 0.25
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
from typing import Any

from benchmarks.emulation_rig import Fleet, fleet
from benchmarks.hostd_cost import cost
from benchmarks.link_traffic import probe, uploads
from emulation.cgroup import Cgroup
from emulation.cpu import burners
from emulation.judge import Verified, loss_plausible
from emulation.links import REGISTRY
from emulation.links.base import DIRECTIONS, Backend, Direction, LinkEnds
from emulation.links.delay_line import DROP, DelayLine, LineShape
from emulation.links.tbf import FRAME_BYTES, limit_bytes
from emulation.measure import LinkMeasurer
from topology.link_random import JITTER, mean_loss
from topology.plan import Bursts, JitterKind, Link, Shape, Tolerance
from topology.profiles import LINKS

RATES_BIT_S = (200_000, 1_000_000, 5_000_000, 20_000_000, 50_000_000, 100_000_000, 200_000_000)
DELAYS_S = (0.005, 0.02, 0.1)
PROBES = 300
DEVICES, LOAD_CPUS = 10, 0.15
LOSS, BURSTS = 0.02, Bursts(p=0.004, r=0.2)
LOSS_PACKETS, LOSS_GAP_S = 20_000, 0.00025
JITTER_S, JITTER_FLOWS = 0.005, 6
# A queue is measured in a second and a half: a slower one does not fill in that time.
QUEUE_BIT_S_MIN = 200_000
GOODPUT_S = 8.0
GOODPUT_LINKS = {
    "10 Mbit/s, 20 ms": Shape(rate_bit_s=10_000_000, delay_s=0.02),
    "1 Mbit/s, 100 ms, 2 %": Shape(rate_bit_s=1_000_000, delay_s=0.1, loss=0.02),
}
CONTROLS = ("bbr", "cubic", "reno")
WIDE = Tolerance(rate=1.0, delay_s=1.0, delay=1.0)  # here errors are reported, not judged
UNSHAPED = Shape()


def measurer(backend: Backend) -> LinkMeasurer:
    def counters(ends: LinkEnds) -> dict[Direction, tuple[int, int]]:
        found = backend.counters(ends)
        return {way: (found.packets[way], found.dropped[way]) for way in found.packets}

    return LinkMeasurer(counters, loses_after_rate=backend.loses_after_rate)


# --- rate and queue ----------------------------------------------------------------------------------------


def rates(backend: Backend, ends: LinkEnds) -> list[dict[str, Any]]:
    """One link and direction at a time: rate, and the queue's delay, at 1.5 times the rate."""
    rows: list[dict[str, Any]] = []
    for rate in RATES_BIT_S:
        link = Link(name=f"{rate} bit/s", up=Shape(rate_bit_s=rate), down=Shape(rate_bit_s=rate))
        backend.apply(ends, link)
        for way in DIRECTIONS:
            found = measurer(backend).measure([(ends, link)], WIDE, ways=[way])[ends.device][way]
            rows.append(rate_row(link.name, way, found))
        backend.clear(ends)
    return rows


def profiles(backend: Backend, made: Fleet) -> list[dict[str, Any]]:
    """Every named profile, as many at once as there are devices, both directions together, as hostd measures them."""
    rows: list[dict[str, Any]] = []
    names = [name for name, profile in LINKS.items() if profile.up.shaped]
    for at in range(0, len(names), DEVICES):
        links = {
            made.ends(index).device: Link(name=name, up=LINKS[name].up, down=LINKS[name].down)
            for index, name in enumerate(names[at : at + DEVICES])
        }
        ends = {one.device: one for one in (made.ends(index) for index in range(len(links)))}
        for device, link in links.items():
            backend.apply(ends[device], link)
        found = measurer(backend).measure([(ends[d], link) for d, link in links.items()], WIDE)
        for device, link in links.items():
            rows += [rate_row(link.name, way, found[device][way]) for way in DIRECTIONS]
            backend.clear(ends[device])
    return rows


def rate_row(name: str, way: Direction, found: Verified) -> dict[str, Any]:
    asked, got = found.requested, found.effective
    row: dict[str, Any] = {"link": name, "way": way}
    row["delay_error_ms"] = round(((got.delay_s or 0.0) - asked.delay_s) * 1e3, 4)
    if asked.rate_bit_s is None:
        return row
    row["rate_error"] = round((got.rate_bit_s or 0.0) / asked.rate_bit_s - 1, 5)
    if asked.rate_bit_s >= QUEUE_BIT_S_MIN:
        asked_s = limit_bytes(asked) * 8 / asked.rate_bit_s
        frame_s = FRAME_BYTES * 8 / asked.rate_bit_s
        row |= {"queue_s": round(got.queue_s or 0.0, 5), "queue_asked_s": round(asked_s, 5)}
        row["queue_error"] = round(((got.queue_s or 0.0) - asked_s) / max(asked_s, frame_s / 0.15), 5)
    return row


# --- delay, jitter, loss -----------------------------------------------------------------------------------


def delays_under_load(backend: Backend, made: Fleet) -> list[dict[str, Any]]:
    """Probes of one idle device while the others upload at 1 Mbit/s each and all burn their quota."""
    rows: list[dict[str, Any]] = []
    ends = [made.ends(index) for index in range(DEVICES)]
    busy = Link(name="busy", up=Shape(rate_bit_s=1_000_000, delay_s=0.03), down=Shape(delay_s=0.03))
    for one in ends[1:]:
        backend.apply(one, busy)
    groups = {m.name: (Cgroup.of_pid(m.pid), LOAD_CPUS) for m in made.devices}
    with uploads(ends[1:]), burners(groups):
        time.sleep(1.0)
        for delay_s in DELAYS_S:
            link = Link(name="probed", up=Shape(delay_s=delay_s), down=Shape(delay_s=delay_s))
            backend.apply(ends[0], link)
            for way in DIRECTIONS:
                (delays,) = probe([(ends[0], way)], PROBES, 0.01, delay_s)
                found = sorted(delays.values())
                median, p99 = statistics.median(found), found[int(0.99 * (len(found) - 1))]
                rows.append(
                    {
                        "delay_s": delay_s,
                        "way": way,
                        "median_error_ms": round((median - delay_s) * 1e3, 4),
                        "p99_error_ms": round((p99 - delay_s) * 1e3, 4),
                    }
                )
    for one in ends:
        backend.clear(one)
    return rows


def jitter(backend: Backend, made: Fleet) -> list[dict[str, Any]]:
    """Standard deviation over several links at once: one alone would need minutes for a heavy tail."""
    rows = []
    ends = [made.ends(index) for index in range(JITTER_FLOWS)]
    kinds: tuple[JitterKind, ...] = tuple(JITTER)
    for kind in kinds:
        shape = Shape(delay_s=0.05, jitter_s=JITTER_S, jitter_kind=kind)
        for one in ends:
            backend.apply(one, Link(name="jitter", up=shape, down=shape))
        for way in DIRECTIONS:
            found = probe([(one, way) for one in ends], PROBES, 6 * JITTER_S, 0.1)
            deviation = statistics.stdev(delay for delays in found for delay in delays.values())
            rows.append({"kind": kind, "way": way, "error": round(deviation / JITTER_S - 1, 4)})
    for one in ends:
        backend.clear(one)
    return rows


def loss(backend: Backend, made: Fleet) -> list[dict[str, Any]]:
    """nfqueue: exactly the packets its seed says; others: a plausible number of them."""
    ends = made.ends(0, seed="bench")
    rows = []
    for way, bursts in (("up", None), ("down", None), ("up", BURSTS)):
        share = mean_loss(bursts) if bursts else LOSS
        shape = Shape(delay_s=0.005, loss=share, bursts=bursts)
        backend.apply(ends, Link(name="loss", **{"up": UNSHAPED, "down": UNSHAPED} | {way: shape}))
        (arrived,) = probe([(ends, way)], LOSS_PACKETS, LOSS_GAP_S, 0.1)  # type: ignore[list-item]
        backend.clear(ends)
        lost = set(range(LOSS_PACKETS)) - set(arrived)
        row: dict[str, Any] = {"way": way, "bursts": bursts is not None, "packets": LOSS_PACKETS}
        row |= {"lost": len(lost), "plausible": loss_plausible(len(lost), LOSS_PACKETS, share, bursts)}
        if backend.name == "nfqueue":
            line = DelayLine(LineShape(loss=share, bursts=bursts), f"bench/{ends.device}/{way}")
            seeded = {n for n in range(LOSS_PACKETS) if line.arrive(n, 0.0) == DROP}
            row |= {"exact": seeded == lost, "differences": len(seeded ^ lost)}
        rows.append(row)
    return rows


# --- TCP, for the record -----------------------------------------------------------------------------------


def goodput(backend: Backend, made: Fleet) -> dict[str, dict[str, float]]:
    """Mbit/s of one upload by link and congestion control, all of them at once; not gated."""
    pairs = [(name, control) for name in GOODPUT_LINKS for control in CONTROLS]
    ends = [made.ends(index) for index in range(len(pairs))]
    for one, (name, _) in zip(ends, pairs, strict=True):
        shape = GOODPUT_LINKS[name]
        backend.apply(one, Link(name=name, up=shape, down=Shape(delay_s=shape.delay_s)))
    with uploads(ends, [control for _, control in pairs]) as received:
        time.sleep(2.0)
        before, began = list(received), time.monotonic()
        time.sleep(GOODPUT_S)
        bits = [(now - then) * 8 for now, then in zip(received, before, strict=True)]
        wall_s = time.monotonic() - began
    for one in ends:
        backend.clear(one)
    found: dict[str, dict[str, float]] = {name: {} for name in GOODPUT_LINKS}
    for (name, control), sent in zip(pairs, bits, strict=True):
        found[name][control] = round(sent / wall_s / 1e6, 3)
    return found


# --- all of it ---------------------------------------------------------------------------------------------


def measure_backend(name: str) -> dict[str, Any]:
    backend = REGISTRY[name]()
    works = backend.probe()
    if not works.ok:
        return {"skipped": works.reason}
    backend.start()
    try:
        with fleet(DEVICES, [LOAD_CPUS] * DEVICES) as made:
            return {
                "rates": rates(backend, made.ends(0)),
                "profiles": profiles(backend, made),
                "jitter": jitter(backend, made),
                "loss": loss(backend, made),
                "goodput_mbit_s": goodput(backend, made),
                "delays": delays_under_load(backend, made),
            }
    finally:
        backend.stop()


def measure() -> dict[str, Any]:
    found: dict[str, Any] = {name: measure_backend(name) for name in ("netem", "nfqueue")}
    constant, varied = cost(["{delay: 20 ms}", "{delay: 20 ms, jitter: 5 ms, loss: 1 %}"])
    rows = [row for row in found.values() if "skipped" not in row]
    if not rows:
        raise SystemExit(f"no backend shapes links here: {found}")
    return {
        **summary(rows),
        "hostd_cpu_constant": round(constant, 4),
        "hostd_cpu_jitter": round(varied, 4),
        "load_average": round(os.getloadavg()[0], 2),
        "backends": found,
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures with bounds, over all backends that ran."""
    shaped = [one for row in rows for one in (*row["rates"], *row["profiles"])]
    delays = [one for row in rows for one in row["delays"]]
    return {
        "rate_error_max": max(abs(one["rate_error"]) for one in shaped if "rate_error" in one),
        "queue_error_max": max(abs(one["queue_error"]) for one in shaped if "queue_error" in one),
        "delay_error_ms_median": max(
            round(abs(one["median_error_ms"]) - 10 * one["delay_s"], 4) for one in delays
        ),
        "delay_error_ms_p99": max(one["p99_error_ms"] for one in delays),
        "jitter_error_max": max(abs(one["error"]) for row in rows for one in row["jitter"]),
        "loss_ok": all(one.get("exact", one["plausible"]) for row in rows for one in row["loss"]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="for machines")
    as_json = parser.parse_args().json
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that containers go, too
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
