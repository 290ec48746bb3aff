"""Links by sch_netem, where the kernel has it: both directions on egress, netem for delay, jitter and loss,
TBF below it for rate with its queue in bytes.

netem orphans the packets it delays, so unlike a queue on OUTPUT it does not trip TCP Small Queues.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from emulation.commands import CommandError
from emulation.links.base import DIRECTIONS, Backend, Counters, LinkEnds, Probe, Readback
from emulation.links.scratch import scratch_namespace
from emulation.links.tbf import TbfState, limit_bytes, mismatch, qdiscs, take_rate, tbf_argv
from emulation.netns import NamespaceError, Netns
from emulation.offload import disable_offloads
from topology.plan import Link, Shape

LIMIT_PACKETS_MIN = 1_000
SMALL_FRAME_BYTES = 66
UNLIMITED_LIMIT_PACKETS = 100_000  # 1 Gbit/s of full frames for a second
# With a rate of its own netem makes packets due one after the other: jitter then never reorders. This one is
# far above what a veth carries, so that it costs no time (12 ns for a full frame).
ORDERING_RATE_BIT = "1000000000000bit"


def limit_packets(shape: Shape) -> int:
    """netem's default of 1000 silently drops on fast long links: 1.5 x what is under way, as small frames."""
    if shape.rate_bit_s is None:
        return UNLIMITED_LIMIT_PACKETS
    held_bytes = 1.5 * shape.rate_bit_s * (shape.delay_s + 4 * shape.jitter_s) / 8 + limit_bytes(shape)
    return LIMIT_PACKETS_MIN + math.ceil(held_bytes / SMALL_FRAME_BYTES)


def netem_argv(interface: str, shape: Shape) -> list[str]:
    argv = ["tc", "qdisc", "replace", "dev", interface, "root", "handle", "1:", "netem"]
    argv += ["limit", str(limit_packets(shape)), "delay", f"{round(shape.delay_s * 1e6)}us"]
    if shape.jitter_s > 0:
        argv += [f"{round(shape.jitter_s * 1e6)}us", "distribution", "normal", "rate", ORDERING_RATE_BIT]
    if shape.loss > 0:
        argv += ["loss", "random", f"{shape.loss * 100:.6g}%"]
    return argv


def shape_argvs(interface: str, shape: Shape) -> list[list[str]]:
    """The commands that put one direction in force; none for an unshaped one."""
    if not shape.shaped:
        return []
    if not (shape.delay_s > 0 or shape.jitter_s > 0 or shape.loss > 0):
        return [tbf_argv(interface, shape)]
    argvs = [netem_argv(interface, shape)]
    if shape.rate_bit_s is not None:
        argvs.append(tbf_argv(interface, shape, parent="1:1", handle="10:"))
    return argvs


class NetemBackend(Backend):
    name = "netem"

    def probe(self) -> Probe:
        try:
            with scratch_namespace() as netns:
                for argv in shape_argvs(
                    "lo", Shape(rate_bit_s=1_000_000, delay_s=0.01, jitter_s=0.001, loss=0.01)
                ):
                    netns.run(*argv)
        except (CommandError, NamespaceError) as error:
            return Probe(self.name, False, str(error))
        return Probe(self.name, True, "netem with a tbf below it works")

    def unsupported(self, shape: Shape) -> list[str]:
        """Everything a `Shape` can say is supported."""
        return []

    def start(self) -> str:
        return "the kernel does it all"

    def alive(self) -> bool:
        return True

    def apply(self, ends: LinkEnds, link: Link) -> None:
        ends.broker_ns.call(partial(disable_offloads, ends.broker_interface))
        for netns, interface, shape in _egresses(ends, link):
            netns.call(partial(disable_offloads, interface))
            argvs = shape_argvs(interface, shape)
            if not argvs or _kind(qdiscs(netns, interface)) not in (None, argvs[0][argvs[0].index("1:") + 1]):
                take_rate(netns, interface)  # another kind of root cannot be replaced under the same handle
            for argv in argvs:
                netns.run(*argv)

    def verify(self, ends: LinkEnds, link: Link) -> Readback:
        values: dict[str, object] = {}
        wrong: list[str] = []
        for way, (netns, interface, shape) in zip(("up", "down"), _egresses(ends, link), strict=True):
            found = qdiscs(netns, interface)
            values[way] = [{"kind": q.get("kind"), "options": q.get("options")} for q in found]
            text = mismatch(way, shape, TbfState.of(found))
            wrong += ([text] if text else []) + netem_mismatches(way, shape, found)
        return Readback(values, tuple(wrong))

    def counters(self, ends: LinkEnds) -> Counters:
        counters = Counters()
        for way, (netns, interface) in zip(
            DIRECTIONS,
            ((ends.device_ns, ends.device_interface), (ends.host, ends.host_interface)),
            strict=True,
        ):
            for qdisc in qdiscs(netns, interface):
                if (
                    qdisc.get("kind") == "netem"
                ):  # its drops hold those of the tbf below, whose own are taken off
                    below = sum(
                        int(q.get("drops", 0)) for q in qdiscs(netns, interface) if q.get("kind") == "tbf"
                    )
                    dropped = max(0, int(qdisc.get("drops", 0)) - below)
                    counters.dropped[way] = dropped
                    counters.packets[way] = int(qdisc.get("packets", 0)) + dropped
        return counters

    def clear(self, ends: LinkEnds) -> None:
        for netns, interface in ((ends.device_ns, ends.device_interface), (ends.host, ends.host_interface)):
            try:
                take_rate(netns, interface)
            except NamespaceError:
                continue

    def stop(self) -> None:
        """The kernel does it all."""


def _egresses(ends: LinkEnds, link: Link) -> list[tuple[Netns, str, Shape]]:
    return [
        (ends.device_ns, ends.device_interface, link.up),
        (ends.host, ends.host_interface, link.down),
    ]


def _kind(found: list[dict[str, Any]]) -> str | None:
    """Kind of the shaping root; the kernel's own default (noqueue, pfifo_fast, ...) is None."""
    for qdisc in found:
        if qdisc.get("root") and qdisc.get("kind") in ("netem", "tbf"):
            return str(qdisc["kind"])
    return None


def netem_mismatches(way: str, shape: Shape, found: list[dict[str, Any]]) -> list[str]:
    """What is wrong with the netem found: `tc -j` reports delay and jitter in seconds, loss as a probability."""
    wanted = shape.delay_s > 0 or shape.jitter_s > 0 or shape.loss > 0
    netem = next((q["options"] for q in found if q.get("kind") == "netem"), None)
    if netem is None:
        return [f"{way}: no netem, a delay or loss was asked"] if wanted else []
    if not wanted:
        return [f"{way}: a netem where none was asked"]
    delay = netem.get("delay") or {}
    loss = (netem.get("loss-random") or {}).get("loss", 0.0)
    wrong = []
    for name, value, asked, slack in (
        ("delay", float(delay.get("delay", 0.0)), shape.delay_s, 1e-5),
        ("jitter", float(delay.get("jitter", 0.0)), shape.jitter_s, 1e-5),
        ("loss", float(loss), shape.loss, 1e-4),
    ):
        if abs(value - asked) > slack:
            wrong.append(f"{way}: {name} {value}, {asked} was asked")
    if int(netem.get("limit", 0)) != limit_packets(shape):
        wrong.append(f"{way}: limit {netem.get('limit')} packets, {limit_packets(shape)} were asked")
    return wrong
