"""Links where the kernel has no netem: TBF for rate, NFQUEUE and the delay process for what happens to packets.

Rate sits on egress (up: the device's own interface; down: the host's end of its veth). Delay, jitter and loss
sit on the *receiver's* INPUT, because a queue on the sender's OUTPUT keeps packets charged to its socket and
TCP Small Queues collapses the flow (measured: 5 instead of 1,000 Mbit/s). The broker's namespace has one
queue per device, chosen by the device's fixed source address; a device's namespace has its one queue for
everything that comes in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import msgspec

from emulation.commands import CommandError
from emulation.links import nfnetlink
from emulation.links.base import DIRECTIONS, Backend, Counters, Direction, LinkEnds, Probe, Readback
from emulation.links.delay_client import DelayClient, DelayProcessError
from emulation.links.delay_line import LineShape
from emulation.links.scratch import scratch_namespace
from emulation.links.tbf import TbfState, mismatch, put_rate, qdiscs, take_rate, tbf_argv
from emulation.netns import NamespaceError, Netns
from emulation.offload import disable_offloads, offloads_on
from topology.plan import Link, Shape

# Acknowledgements of 66 bytes are the smallest frames worth counting; the kernel drops beyond the queue's
# length.
QUEUE_PACKETS_MIN, QUEUE_PACKETS_MAX = 1_000, 65_536
SMALL_FRAME_BYTES = 66
PROGRAMS = ("iptables", "iptables-legacy", "iptables-nft")


def queue_packets(shape: Shape) -> int:
    """Packets a queue may hold: 1.5 times what the rate brings in during delay and four deviations, as small
    frames.
    """
    if shape.rate_bit_s is None:
        return QUEUE_PACKETS_MAX
    held_s = shape.delay_s + 4 * shape.jitter_s
    packets = math.ceil(1.5 * shape.rate_bit_s * held_s / 8 / SMALL_FRAME_BYTES)
    return min(QUEUE_PACKETS_MAX, QUEUE_PACKETS_MIN + packets)


def rule(interface: str, queue: int, comment: str, source: str | None) -> list[str]:
    """The arguments of one INPUT rule, from the chain's name on."""
    selected = ["-s", f"{source}/32"] if source else []
    return [
        *("INPUT", "-i", interface, *selected, "-m", "comment", "--comment", comment),
        *("-j", "NFQUEUE", "--queue-num", str(queue), "--queue-bypass"),
    ]


def queues_owned(netns: Netns) -> dict[int, dict[str, int]]:
    """Queues of a namespace that have an owner, with what the kernel dropped itself."""
    # /proc/net is the namespace of the process's first thread; this thread's is under thread-self.
    text = netns.call(lambda: Path("/proc/thread-self/net/netfilter/nfnetlink_queue").read_text())
    found: dict[int, dict[str, int]] = {}
    for line in text.splitlines():
        words = [int(word) for word in line.split()]
        found[words[0]] = {
            "waiting": words[2],
            "copy_mode": words[3],
            "queue_dropped": words[5],
            "user_dropped": words[6],
        }
    return found


@dataclass(frozen=True)
class _Side:
    """Where one direction's delay sits."""

    line: str
    netns: Netns
    interface: str
    source: str | None
    boot: str


class NfqueueBackend(Backend):
    name = "nfqueue"

    def __init__(self) -> None:
        self.delays = DelayClient()
        self._applied: dict[str, str] = {}  # line -> boots of its ends: what the delay process has
        self._written: dict[tuple[str, str], tuple[int | None, int | None]] = {}  # rates, by line and boots

    def probe(self) -> Probe:
        """Really try, in a namespace made for it: a TBF on loopback, a queue bound, a rule that leads to it."""
        try:
            with scratch_namespace() as netns:
                netns.run(*tbf_argv("lo", Shape(rate_bit_s=1_000_000)))
                netns.call(lambda: nfnetlink.open_queue(1, QUEUE_PACKETS_MIN)).close()
                program = self._try_programs(netns)
        except (CommandError, NamespaceError, OSError, nfnetlink.QueueError) as error:
            return Probe.failed(self.name, error)
        return Probe(self.name, True, f"tbf, nfnetlink_queue and {program} -j NFQUEUE work")

    def start(self) -> str:
        if not self.delays.running:
            self.delays.stop()
            self._applied.clear()
            self._written.clear()
            self.delays.start()
        return f"delay process, scheduling: {self.delays.scheduling}"

    def alive(self) -> bool:
        return self.delays.running

    def apply(self, ends: LinkEnds, link: Link) -> None:
        self._offloads(ends)
        up, down = self._side(ends, "up"), self._side(ends, "down")
        self._put_rate(up, ends.device_ns, ends.device_interface, link.up)
        self._put_rate(down, ends.host, ends.host_interface, link.down)
        self._put_delay(ends, up, link.up)
        self._put_delay(ends, down, link.down)

    def change(self, ends: LinkEnds, link: Link) -> None:
        """One command of tc where a rate changes, one message to the delay process where anything else does."""
        egress = ((ends.device_ns, ends.device_interface), (ends.host, ends.host_interface))
        for way, (netns, interface) in zip(DIRECTIONS, egress, strict=True):
            shape, side = getattr(link, way), self._side(ends, way)
            if self._written.get((side.line, side.boot)) != _rate_of(shape):
                self._put_rate(side, netns, interface, shape)
            wanted = LineShape.of(shape)
            if self._applied.get(side.line) == side.boot and wanted != LineShape():
                self.delays.change(side.line, wanted, queue_packets(shape))
            else:
                self._put_delay(ends, side, shape)

    def _put_rate(self, side: _Side, netns: Netns, interface: str, shape: Shape) -> None:
        put_rate(netns, interface, shape)
        self._written[(side.line, side.boot)] = _rate_of(shape)

    def verify(self, ends: LinkEnds, link: Link) -> Readback:
        up = TbfState.of(qdiscs(ends.device_ns, ends.device_interface))
        down = TbfState.of(qdiscs(ends.host, ends.host_interface))
        wrong = [mismatch("up", link.up, up), mismatch("down", link.down, down)]
        values: dict[str, object] = {"up": _describe(up), "down": _describe(down)}
        try:
            lines = self.delays.stats()
        except DelayProcessError as error:
            lines = {}
            wrong.append(str(error))
        for way in DIRECTIONS:
            side = self._side(ends, way)
            found, problems = self._verify_delay(ends, side, getattr(link, way), lines)
            values[f"{way}_delay"] = found
            wrong += [f"{way}: {problem}" for problem in problems]
        for where, netns, name in (
            ("device", ends.device_ns, ends.device_interface),
            ("host end", ends.host, ends.host_interface),
        ):
            on = netns.call(partial(offloads_on, name))
            if on:
                wrong.append(f"{where}: {', '.join(on)} on")
        return Readback(values, tuple(text for text in wrong if text))

    def counters(self, ends: LinkEnds) -> Counters:
        lines = self.delays.stats()
        found = Counters()
        for way in DIRECTIONS:
            side = self._side(ends, way)
            state = lines.get(side.line)
            if state is None:
                continue
            found.packets[way], found.dropped[way] = int(state["packets"]), int(state["dropped"])
            found.late_s_max[way] = float(state["late_s_max"])
            kernel = queues_owned(side.netns).get(ends.queue, {})
            found.overflowed[way] = kernel.get("queue_dropped", 0) + kernel.get("user_dropped", 0)
        return found

    def clear(self, ends: LinkEnds) -> None:
        """Delay first, then rate; a namespace that is gone took its part with it."""
        for way in DIRECTIONS:
            side = self._side(ends, way)
            try:
                self._take_delay(ends, side)
            except NamespaceError:
                self._forget(side.line)
        for netns, interface in ((ends.device_ns, ends.device_interface), (ends.host, ends.host_interface)):
            try:
                take_rate(netns, interface)
            except NamespaceError:
                continue

    def stop(self) -> None:
        self.delays.stop()
        self._applied.clear()

    # --- parts ----------------------------------------------------------------------------------------------

    @cached_property
    def program(self) -> str:
        """The iptables that works here: nft where the kernel has its compatibility layer, else legacy."""
        with scratch_namespace() as netns:
            return self._try_programs(netns)

    def _try_programs(self, netns: Netns) -> str:
        problems: list[CommandError] = []
        for program in PROGRAMS:
            try:
                netns.run(program, "-w", "5", "-A", *rule("lo", 1, "edgerig-probe", None))
                return program
            except CommandError as error:
                problems.append(error)
        code = min(error.returncode for error in problems)  # NOT_INSTALLED only if none of them is
        raise CommandError(["iptables"], code, "; ".join(map(str, problems)))

    def _side(self, ends: LinkEnds, way: Direction) -> _Side:
        if way == "up":
            boot = f"{ends.device_boot} {ends.broker_boot}"
            return _Side(f"{ends.device}/up", ends.broker_ns, ends.broker_interface, ends.address, boot)
        return _Side(f"{ends.device}/down", ends.device_ns, ends.device_interface, None, ends.device_boot)

    @staticmethod
    def _offloads(ends: LinkEnds) -> None:
        for netns, interface in (
            (ends.device_ns, ends.device_interface),
            (ends.host, ends.host_interface),
            (ends.broker_ns, ends.broker_interface),
        ):
            netns.call(partial(disable_offloads, interface))

    def _put_delay(self, ends: LinkEnds, side: _Side, shape: Shape) -> None:
        wanted, length = LineShape.of(shape), queue_packets(shape)
        if wanted == LineShape():
            self._take_delay(ends, side)
            return
        if self._applied.get(side.line) == side.boot:
            self.delays.change(side.line, wanted, length)
        else:
            self._forget(side.line)
            handle = side.netns.call(lambda: nfnetlink.open_queue(ends.queue, length))
            try:
                self.delays.bind(side.line, handle, ends.queue, wanted, length, f"{ends.seed}/{side.line}")
            finally:
                handle.close()
            self._applied[side.line] = side.boot
        wanted_rule = rule(side.interface, ends.queue, comment(ends), side.source)
        if not self._has_rule(side.netns, wanted_rule):
            side.netns.run(self.program, "-w", "5", "-I", *wanted_rule)

    def _take_delay(self, ends: LinkEnds, side: _Side) -> None:
        wanted_rule = rule(side.interface, ends.queue, comment(ends), side.source)
        if side.line in self._applied or self._has_rule(side.netns, wanted_rule):
            while self._has_rule(side.netns, wanted_rule):
                side.netns.run(self.program, "-w", "5", "-D", *wanted_rule)
        self._forget(side.line)

    def _forget(self, line: str) -> None:
        self._applied.pop(line, None)
        if self.delays.running:
            self.delays.unbind(line)

    def _has_rule(self, netns: Netns, wanted: list[str]) -> bool:
        try:
            netns.run(self.program, "-w", "5", "-C", *wanted)
        except CommandError as error:
            if error.returncode == 1:
                return False
            raise
        return True

    def _verify_delay(
        self, ends: LinkEnds, side: _Side, shape: Shape, lines: dict[str, dict[str, object]]
    ) -> tuple[dict[str, object], list[str]]:
        wanted = LineShape.of(shape)
        queue = queues_owned(side.netns).get(ends.queue)
        owned = queue is not None
        has_rule = self._has_rule(side.netns, rule(side.interface, ends.queue, comment(ends), side.source))
        if wanted == LineShape():
            return {}, ["a queue rule where no delay was asked"] if has_rule else []
        state = lines.get(side.line, {})
        problems = [] if has_rule else ["no iptables rule leads to the queue"]
        if not owned:
            problems.append(f"queue {ends.queue} has no owner: packets pass undelayed")
        in_force = state.get("shape")
        if in_force is None or msgspec.convert(in_force, LineShape) != wanted:
            problems.append(f"the delay process has {in_force}, {wanted} was asked")
        if queue is not None and (queue["copy_mode"] == nfnetlink.COPY_PACKET) != (wanted.corrupt > 0):
            problems.append(
                f"the queue copies in mode {queue['copy_mode']}, corrupt {wanted.corrupt} was asked"
            )
        return {"rule": has_rule, "owned": owned, "in_force": in_force}, problems


def _rate_of(shape: Shape) -> tuple[int | None, int | None]:
    return shape.rate_bit_s, shape.queue_bytes


def comment(ends: LinkEnds) -> str:
    return f"edgerig {ends.device}"


def _describe(state: TbfState | None) -> dict[str, object] | None:
    if state is None:
        return None
    return {
        "rate_bit_s": state.rate_bit_s,
        "burst_bytes": state.burst_bytes,
        "limit_bytes": state.limit_bytes,
    }
