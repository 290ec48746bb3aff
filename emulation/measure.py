"""Measure a link per direction, with real packets between the namespaces of its two ends.

One process opens UDP sockets inside the device's and the broker's namespace. Both ends read the same
CLOCK_MONOTONIC, so what is measured is truly one-way, never half a round trip.

- **Delay** (median) and **jitter** (standard deviation) by small probes spaced so that they never queue on
  each other.
- **Rate** by UDP at 1.5 times what was asked, counted where it arrives: frames (payload + 42 bytes of
  headers) after the shaper's initial credit is used up, over the time between their arrivals.
- **Loss** by the backend's own counters over all packets of the measurement, held against the binomial
  interval of what was asked; lost probes must lie in theirs too.

What a direction does not shape is not measured.
"""

from __future__ import annotations

import select
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from emulation.judge import Effective, Verified, judge
from emulation.links.base import DIRECTIONS, Direction, LinkEnds
from emulation.links.tbf import FRAME_BYTES, burst_bytes, limit_bytes
from emulation.scheduling import MEASURE_PRIORITY, going_first
from topology.plan import Link, Shape, Tolerance

HEADER_BYTES = 42  # Ethernet 14, IPv4 20, UDP 8: what a payload costs more on a veth
PROBE_PAYLOAD_BYTES = 18  # a frame of 60 bytes, the smallest on a wire
PROBES = 41  # the median's error is then a quarter of the scatter of one probe
PROBE_GAP_S = 0.012
# Closer probes would push each other back: a link that never reorders keeps their order.
PROBE_GAP_JITTERS = 5.0
PROBE_GAP_FRAMES = 4.0  # at 18 kbit/s a probe takes 27 ms: leave the shaper time to refill between two
PROBE_TOTAL_S_MAX = 4.5  # slow links get fewer probes, not a slower start
OVERLOAD = 1.5
RATE_FRAMES = 400  # so many frames make a good rate; slow links stop at RATE_S_MAX
RATE_S_MIN, RATE_S_MAX = 0.4, 1.5
RATE_JITTERS, RATE_S_MAX_JITTER = 60.0, 6.0  # so many deviations long, the rate's own error stays near 1 %
FRAMES_IN_RATE_MIN = 60  # smaller frames on slow links, or there would be three arrivals to count
GROUP_BIT_S = 200_000_000  # measured together at most: about two thirds of a core for sending and receiving
SOCKET_BUFFER_BYTES = 8 << 20  # the sender's must hold the shaper's whole queue, or it would be the queue
TICK_S = 0.001
SETTLE_S = 0.15  # packets under way arrive within their delay, the queue and this
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33

_STAMP = struct.Struct("!IId")  # kind of flow, sequence number, CLOCK_MONOTONIC when sent


@dataclass
class _Flow:
    """One direction of one device: two connected sockets, and what has arrived."""

    device: str
    way: Direction
    shape: Shape
    sender: socket.socket
    receiver: socket.socket
    number: int
    probe_sent: int = 0
    probes_seen: set[int] = field(default_factory=set)
    delays_s: list[float] = field(default_factory=list)
    arrivals: list[tuple[float, int]] = field(
        default_factory=list
    )  # when, frame bytes: of the rate's packets
    waits_s: list[float] = field(default_factory=list)  # how long each of those was on its way
    offered_bit_s: float | None = None  # what the rate's sender really offered
    sequence: int = 0

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()


@dataclass(frozen=True)
class RatePlan:
    """How one direction's rate is measured: payload size, a first burst that uses up the credit, then for
    how long.
    """

    payload_bytes: int
    credit_bytes: int
    duration_s: float
    sent_bit_s: float

    @classmethod
    def of(cls, rate_bit_s: int, jitter_s: float = 0.0) -> RatePlan:
        """Jitter blurs when the first and the last packet arrive: the more of it, the longer it takes."""
        wanted = int(rate_bit_s / 8 * RATE_S_MAX / FRAMES_IN_RATE_MIN)
        frame = min(FRAME_BYTES, max(HEADER_BYTES + _STAMP.size, wanted))
        duration = min(RATE_S_MAX, max(RATE_S_MIN, RATE_FRAMES * frame * 8 / rate_bit_s))
        duration = max(duration, min(RATE_S_MAX_JITTER, RATE_JITTERS * jitter_s))
        credit = burst_bytes(rate_bit_s) + 2 * frame
        return cls(frame - HEADER_BYTES, credit, duration, OVERLOAD * rate_bit_s)


class LinkMeasurer:
    """Measures the links it is given, together. `counters` are (packets, dropped) of a device's direction
    so far.
    """

    def __init__(
        self,
        counters: Callable[[LinkEnds], dict[Direction, tuple[int, int]]],
        *,
        loses_after_rate: bool = True,
    ) -> None:
        """`loses_after_rate`: whether the backend drops behind its shaper, so that fewer arrive than it let pass."""
        self._counters, self._loses_after_rate = counters, loses_after_rate

    def measure(
        self,
        links: Iterable[tuple[LinkEnds, Link]],
        tolerance: Tolerance,
        *,
        ways: Iterable[Direction] = DIRECTIONS,
        rates: bool = True,
    ) -> dict[str, dict[Direction, Verified]]:
        """Requested against effective by device and direction. Raises NamespaceError when an end goes away.

        Without `rates` only probes are sent: for links in use, which an overload would disturb.
        """
        with going_first(MEASURE_PRIORITY):
            return self._measure(list(links), tolerance, list(ways), rates)

    def _measure(
        self, links: list[tuple[LinkEnds, Link]], tolerance: Tolerance, ways: list[Direction], rates: bool
    ) -> dict[str, dict[Direction, Verified]]:
        before = {ends.device: self._counters(ends) for ends, _ in links}
        flows: list[_Flow] = []
        try:
            for ends, link in links:
                for way in ways:
                    flows.append(_open(ends, way, getattr(link, way), len(flows)))
            _probe(flows)
            _load_all(rate_groups(flows) if rates else [])
        finally:
            for flow in flows:
                flow.close()
        after = {ends.device: self._counters(ends) for ends, _ in links}
        found: dict[str, dict[Direction, Verified]] = {ends.device: {} for ends, _ in links}
        for flow in flows:
            packets, dropped = _difference(before[flow.device], after[flow.device], flow.way)
            lost = (flow.probe_sent - len(flow.delays_s), flow.probe_sent)
            found[flow.device][flow.way] = judge(
                flow.shape, self._effective(flow, packets, dropped), tolerance, lost, rates=rates
            )
        return found

    def _effective(self, flow: _Flow, packets: int, dropped: int) -> Effective:
        rate = None
        if flow.shape.rate_bit_s is not None:
            rate = arrival_rate(flow.arrivals, RatePlan.of(flow.shape.rate_bit_s).credit_bytes)
            if rate is not None and self._loses_after_rate:
                arrived = 1 - dropped / packets if dropped < packets else 1.0
                rate /= arrived * (
                    1 - flow.shape.corrupt
                )  # the rest was let through and lost behind the shaper
        delays = sorted(flow.delays_s)
        full = flow.waits_s[-max(1, len(flow.waits_s) // 4) :]  # by then the overload has filled the queue
        return Effective(
            rate_bit_s=rate,
            delay_s=statistics.median(delays) if delays else None,
            jitter_s=statistics.stdev(delays) if len(delays) > 1 else None,
            offered_bit_s=flow.offered_bit_s,
            queue_s=statistics.median(full) - statistics.median(delays) if full and delays else None,
            delay_p99_s=delays[min(len(delays) - 1, int(0.99 * len(delays)))] if delays else None,
            probes=len(delays),
            loss=dropped / packets if packets else None,
            packets=packets,
            dropped=dropped,
        )


def _difference(
    before: dict[Direction, tuple[int, int]], after: dict[Direction, tuple[int, int]], way: Direction
) -> tuple[int, int]:
    first, last = before.get(way, (0, 0)), after.get(way, (0, 0))
    return last[0] - first[0], last[1] - first[1]


def _open(ends: LinkEnds, way: Direction, shape: Shape, number: int) -> _Flow:
    sender_ns, receiver_ns = (
        (ends.device_ns, ends.broker_ns) if way == "up" else (ends.broker_ns, ends.device_ns)
    )
    receiver = receiver_ns.call(partial(_bound_socket, SO_RCVBUFFORCE))
    try:
        sender = sender_ns.call(partial(_bound_socket, SO_SNDBUFFORCE))
    except BaseException:
        receiver.close()
        raise
    target = _address_of(ends, way)
    sender.connect((target, receiver.getsockname()[1]))
    return _Flow(ends.device, way, shape, sender, receiver, number)


def _address_of(ends: LinkEnds, way: Direction) -> str:
    return ends.broker_address if way == "up" else ends.address


def _bound_socket(buffer_option: int) -> socket.socket:
    handle = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    handle.setsockopt(socket.SOL_SOCKET, buffer_option, SOCKET_BUFFER_BYTES)
    handle.bind(("0.0.0.0", 0))
    handle.setblocking(False)
    return handle


# --- delay -------------------------------------------------------------------------------------------------


def probe_schedule(shape: Shape) -> tuple[int, float]:
    """(number of probes, seconds between two)."""
    gap = max(PROBE_GAP_S, PROBE_GAP_JITTERS * shape.jitter_s)
    if shape.rate_bit_s is not None:
        frame_s = (PROBE_PAYLOAD_BYTES + HEADER_BYTES) * 8 / shape.rate_bit_s
        gap = max(gap, PROBE_GAP_FRAMES * frame_s)
    return min(PROBES, max(9, int(PROBE_TOTAL_S_MAX / gap))), gap


def _probe(flows: list[_Flow]) -> None:
    """Send every flow's probes in turn, each flow a little later than the one before, and collect them."""
    start = time.monotonic() + 0.01
    due: list[tuple[float, _Flow]] = []
    for flow in flows:
        count, gap = probe_schedule(flow.shape)
        first = start + gap * flow.number / max(1, len(flows))
        due += [(first + gap * index, flow) for index in range(count)]
    due.sort(key=lambda entry: entry[0])
    receivers = {flow.receiver: flow for flow in flows}
    for at, flow in due:
        _receive_until(receivers, at)
        _send(flow, PROBE_PAYLOAD_BYTES, kind=0)
        flow.probe_sent += 1
    longest = max((flow.shape.delay_s + 4 * flow.shape.jitter_s for flow in flows), default=0.0)
    _receive_until(receivers, time.monotonic() + longest + SETTLE_S)


def _send(flow: _Flow, payload_bytes: int, *, kind: int) -> bool:
    flow.sequence += 1
    stamp = _STAMP.pack(kind, flow.sequence, time.monotonic())
    try:
        flow.sender.send(stamp.ljust(payload_bytes, b"\0"))
    except (BlockingIOError, ConnectionRefusedError):
        return False
    return True


def _receive_until(receivers: dict[socket.socket, _Flow], until: float) -> None:
    while True:
        wait = until - time.monotonic()
        ready, _, _ = select.select(list(receivers), [], [], max(0.0, wait))
        for handle in ready:
            _drain(receivers[handle])
        if wait <= 0:
            return


def _drain(flow: _Flow) -> None:
    while True:
        try:
            data = flow.receiver.recv(2048)
        except BlockingIOError:
            return
        now = time.monotonic()
        if len(data) < _STAMP.size:
            continue
        kind, sequence, sent = _STAMP.unpack_from(data)
        if kind == 0:
            if sequence not in flow.probes_seen:  # of a duplicate the first one counts
                flow.probes_seen.add(sequence)
                flow.delays_s.append(now - sent)
        else:
            flow.arrivals.append((now, len(data) + HEADER_BYTES))
            flow.waits_s.append(now - sent)


# --- rate --------------------------------------------------------------------------------------------------


def rate_groups(flows: list[_Flow]) -> list[list[_Flow]]:
    """Flows with a rate, in groups whose rates add up to at most GROUP_BIT_S; one faster than that goes
    alone.
    """
    groups: list[list[_Flow]] = []
    total = 0
    for flow in sorted(flows, key=lambda f: f.shape.rate_bit_s or 0):
        rate = flow.shape.rate_bit_s
        if rate is None:
            continue
        if not groups or total + rate > GROUP_BIT_S:
            groups.append([])
            total = 0
        groups[-1].append(flow)
        total += rate
    return groups


def _load_all(groups: list[list[_Flow]]) -> None:
    """One group after the other; while one is overloaded the queues of the one before run dry."""
    receivers: dict[socket.socket, _Flow] = {}
    dry_s = time.monotonic()
    for group in groups:
        receivers |= {flow.receiver: flow for flow in group}
        _load(group, receivers)
        dry_s = max(dry_s, time.monotonic() + max(_held_s(flow.shape) for flow in group) + SETTLE_S)
    _receive_until(receivers, dry_s)


def _held_s(shape: Shape) -> float:
    """How long the last packet of an overload may be on its way."""
    return shape.delay_s + 4 * shape.jitter_s + _queue_s(shape)


def _load(flows: list[_Flow], receivers: dict[socket.socket, _Flow]) -> None:
    """Overload every flow of the group at once; what arrives is counted."""
    plans = {flow.number: RatePlan.of(flow.shape.rate_bit_s or 1, flow.shape.jitter_s) for flow in flows}
    sent, ended = dict.fromkeys(plans, 0), dict.fromkeys(plans, 0.0)
    start = time.monotonic()
    end = start + max(plan.duration_s for plan in plans.values())
    while (now := time.monotonic()) < end:
        for flow in flows:
            plan = plans[flow.number]
            frame = plan.payload_bytes + HEADER_BYTES
            target = plan.credit_bytes + plan.sent_bit_s / 8 * min(now - start, plan.duration_s)
            while sent[flow.number] < target:
                sent[flow.number] += frame
                ended[flow.number] = now
                if not _send(flow, plan.payload_bytes, kind=1):
                    break
        _receive_until(receivers, now + TICK_S)
    for flow in flows:
        flow.offered_bit_s = sent[flow.number] * 8 / max(TICK_S, ended[flow.number] - start)


def _queue_s(shape: Shape) -> float:
    return limit_bytes(shape) * 8 / shape.rate_bit_s if shape.rate_bit_s else 0.0


def arrival_rate(arrivals: list[tuple[float, int]], skip_bytes: int) -> float | None:
    """bit/s of what arrives after `skip_bytes`: the slope of a line through all arrivals, since the first and the last
    alone would carry all of their jitter into it. None with fewer than three left.
    """
    times: list[float] = []
    bits: list[float] = []
    total = 0
    for at_s, size in arrivals:
        total += size
        if total > skip_bytes:
            times.append(at_s)
            bits.append(total * 8.0)
    if len(times) < 3 or times[-1] <= times[0]:
        return None
    seconds_per_bit = statistics.linear_regression(bits, times).slope
    return 1 / seconds_per_bit if seconds_per_bit > 0 else None
