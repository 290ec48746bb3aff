"""Links by sch_netem, where the kernel has it: both directions on egress, netem for what happens to packets, TBF
below it for rate with its queue in bytes (HTB was measured to queue two seconds of super-packets, see `tbf`).

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
from topology.plan import JitterKind, Link, Shape

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


# netem multiplies a table's draws by the jitter it is given. These are the tables' own deviations: iproute2's normal
# has 1, its pareto (tc/pareto.c, cut at 4) 0.82; without a table netem draws evenly within plus and minus the jitter.
TABLE_DEVIATION: dict[JitterKind, float] = {"normal": 1.0, "pareto": 0.8197, "uniform": 1 / math.sqrt(3)}


def netem_jitter_s(shape: Shape) -> float:
    """What netem has to be given so that the delay's standard deviation is the shape's jitter."""
    return shape.jitter_s / TABLE_DEVIATION[shape.jitter_kind]


def netem_argv(interface: str, shape: Shape) -> list[str]:
    """One command with every parameter: what is left out of a `replace` would keep an old value."""
    argv = ["tc", "qdisc", "replace", "dev", interface, "root", "handle", "1:", "netem"]
    argv += ["limit", str(limit_packets(shape)), "delay", f"{round(shape.delay_s * 1e6)}us"]
    if shape.jitter_s > 0:
        argv += [f"{round(netem_jitter_s(shape) * 1e6)}us"]
        argv += [] if shape.jitter_kind == "uniform" else ["distribution", shape.jitter_kind]
        argv += ["rate", ORDERING_RATE_BIT]
    if shape.bursts is not None:
        bursts = shape.bursts
        argv += ["loss", "gemodel", *map(_percent, (bursts.p, bursts.r, bursts.bad, bursts.good))]
    elif shape.loss > 0:
        argv += ["loss", "random", _percent(shape.loss)]
    for name in ("reorder", "duplicate", "corrupt"):
        if getattr(shape, name) > 0:
            argv += [name, _percent(getattr(shape, name))]
    return argv


def _percent(share: float) -> str:
    return f"{share * 100:.6g}%"


def shape_argvs(interface: str, shape: Shape) -> list[list[str]]:
    """The commands that put one direction in force; none for an unshaped one."""
    if not shape.shaped:
        return []
    if not shape.impaired:
        return [tbf_argv(interface, shape)]
    argvs = [netem_argv(interface, shape)]
    if shape.rate_bit_s is not None:
        argvs.append(tbf_argv(interface, shape, parent="1:1", handle="10:"))
    return argvs


class NetemBackend(Backend):
    name = "netem"
    loses_after_rate = False

    def probe(self) -> Probe:
        try:
            with scratch_namespace() as netns:
                for argv in shape_argvs(
                    "lo", Shape(rate_bit_s=1_000_000, delay_s=0.01, jitter_s=0.001, loss=0.01)
                ):
                    netns.run(*argv)
        except (CommandError, NamespaceError) as error:
            return Probe.failed(self.name, error)
        return Probe(self.name, True, "netem with a tbf below it works")

    def start(self) -> str:
        return "the kernel does it all"

    def alive(self) -> bool:
        return True

    def apply(self, ends: LinkEnds, link: Link) -> None:
        ends.broker_ns.call(partial(disable_offloads, ends.broker_interface))
        for netns, interface, _ in _egresses(ends, link):
            netns.call(partial(disable_offloads, interface))
        self.change(ends, link)

    def change(self, ends: LinkEnds, link: Link) -> None:
        for netns, interface, shape in _egresses(ends, link):
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
    """What is wrong with the netem found: `tc -j` reports delay and jitter in seconds, shares as fractions."""
    netem = next((q["options"] for q in found if q.get("kind") == "netem"), None)
    if netem is None:
        return [f"{way}: no netem, a delay or loss was asked"] if shape.impaired else []
    if not shape.impaired:
        return [f"{way}: a netem where none was asked"]
    wrong = [
        f"{way}: {name} {value}, {asked} was asked"
        for name, value, asked, slack in _compared(shape, netem)
        if abs(value - asked) > slack
    ]
    if int(netem.get("limit", 0)) != limit_packets(shape):
        wrong.append(f"{way}: limit {netem.get('limit')} packets, {limit_packets(shape)} were asked")
    return wrong


def _compared(shape: Shape, netem: dict[str, Any]) -> list[tuple[str, float, float, float]]:
    """(name, found, asked, slack). tc rounds times to microseconds and shares to 32 bits."""
    delay, bursts = netem.get("delay") or {}, shape.bursts
    random_loss = 0.0 if bursts is not None else shape.loss
    compared = [
        ("delay", float(delay.get("delay", 0.0)), shape.delay_s, 1e-5),
        ("jitter", float(delay.get("jitter", 0.0)), netem_jitter_s(shape), 1e-5),
        ("loss", float((netem.get("loss-random") or {}).get("loss", 0.0)), random_loss, 1e-4),
    ]
    model = netem.get("loss-gemodel") or {}
    asked = {"p": bursts.p, "r": bursts.r, "1-h": bursts.bad, "1-k": bursts.good} if bursts else {}
    compared += [(f"loss {key}", float(model.get(key, 0.0)), asked.get(key, 0.0), 1e-4) for key in GE_KEYS]
    for name in ("reorder", "duplicate", "corrupt"):
        compared.append((name, float((netem.get(name) or {}).get(name, 0.0)), getattr(shape, name), 1e-4))
    return compared


GE_KEYS = ("p", "r", "1-h", "1-k")
