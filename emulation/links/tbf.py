"""Rate by the kernel's token bucket (tc-tbf) with explicit limits in bytes.

TBF and not HTB, because its queue is bounded in bytes: at 1 Mbit/s HTB was measured to queue 2 s of
super-packets.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from emulation.commands import CommandError
from emulation.netns import Netns
from topology.plan import Shape

FRAME_BYTES = 1514  # the largest Ethernet frame on a veth with an MTU of 1500
# tc keeps the burst as a time and rounds it down; a bucket below one frame would drop every full frame.
FRAME_BURST_BYTES = 1540
# The bucket must outlast the lateness of the kernel's timer on top of the frame it waits for, or credit is lost. On
# two busy cores: at 50 Mbit/s a bucket of 1 ms lost up to 5 % of the rate, one of 4 ms nothing; at 1 Mbit/s a bucket
# of one frame alone lost 22 %.
BURST_S = 0.004
QUEUE_S = 0.2  # what waits before the shaper when the topology does not say
# Below 120 kbit/s 200 ms are less than two frames, and every second frame of a pair would be lost.
QUEUE_FRAMES_MIN = 2


def burst_bytes(rate_bit_s: int) -> int:
    """One frame and 4 ms of the rate."""
    return FRAME_BURST_BYTES + int(rate_bit_s * BURST_S / 8)


def limit_bytes(shape: Shape) -> int:
    """Bytes that may wait. TBF counts those beside the bucket, so this is the standing queue under overload."""
    if shape.rate_bit_s is None:
        raise ValueError("an unlimited direction has no queue")
    wanted = shape.queue_bytes if shape.queue_bytes is not None else int(shape.rate_bit_s * QUEUE_S / 8)
    return max(wanted, QUEUE_FRAMES_MIN * FRAME_BYTES)


def tbf_options(shape: Shape) -> list[str]:
    """Options of one tbf qdisc; rates in `bit`, sizes in `b`, never `mbps` (which tc takes for bytes)."""
    assert shape.rate_bit_s is not None
    return [
        *("tbf", "rate", f"{shape.rate_bit_s}bit"),
        *("burst", f"{burst_bytes(shape.rate_bit_s)}b", "limit", f"{limit_bytes(shape)}b"),
    ]


def tbf_argv(interface: str, shape: Shape, *, parent: str = "root", handle: str = "1:") -> list[str]:
    """`tc qdisc replace` giving all parameters: `change` with fewer keeps old ones."""
    where = ["root"] if parent == "root" else ["parent", parent]
    return ["tc", "qdisc", "replace", "dev", interface, *where, "handle", handle, *tbf_options(shape)]


def clear_argv(interface: str) -> list[str]:
    return ["tc", "qdisc", "del", "dev", interface, "root"]


def qdiscs(netns: Netns, interface: str) -> list[dict[str, Any]]:
    """Every qdisc of the interface with its counters, as tc reports them."""
    found: list[dict[str, Any]] = json.loads(
        netns.run("tc", "-j", "-s", "qdisc", "show", "dev", interface) or "[]"
    )
    return found


@dataclass(frozen=True)
class TbfState:
    rate_bit_s: int
    burst_bytes: int
    limit_bytes: int
    dropped: int

    @classmethod
    def of(cls, found: list[dict[str, Any]]) -> TbfState | None:
        """tc reports the limit as the time it lasts beyond the bucket: limit = lat * rate + burst."""
        for qdisc in found:
            if qdisc.get("kind") == "tbf":
                options = qdisc["options"]
                rate, burst = int(options["rate"]), int(options["burst"])
                limit = round(float(options.get("lat", 0)) * 1e-6 * rate) + burst
                return cls(rate * 8, burst, limit, int(qdisc.get("drops", 0)))
        return None


def mismatch(where: str, shape: Shape, state: TbfState | None) -> str | None:
    """What is wrong with the shaper found, or None. tc rounds to whole bytes/s and 64 ns, hence 1 % and one
    byte/s.
    """
    if shape.rate_bit_s is None:
        return None if state is None else f"{where}: a tbf of {state.rate_bit_s} bit/s where none was asked"
    if state is None:
        return f"{where}: no tbf, {shape.rate_bit_s} bit/s were asked"
    if abs(state.rate_bit_s - shape.rate_bit_s) > max(8, shape.rate_bit_s // 1000):
        return f"{where}: {state.rate_bit_s} bit/s, {shape.rate_bit_s} were asked"
    if abs(state.limit_bytes - limit_bytes(shape)) > max(64, limit_bytes(shape) // 100):
        return f"{where}: a queue of {state.limit_bytes} bytes, {limit_bytes(shape)} were asked"
    return None


def put_rate(netns: Netns, interface: str, shape: Shape) -> None:
    """Rate of one direction on its egress; an unlimited one loses the shaper a former shape left."""
    if shape.rate_bit_s is not None:
        netns.run(*tbf_argv(interface, shape))
    elif TbfState.of(qdiscs(netns, interface)) is not None:
        take_rate(netns, interface)


def take_rate(netns: Netns, interface: str) -> None:
    """Back to the kernel's default qdisc; what is not there is no error."""
    try:
        netns.run(*clear_argv(interface))
    except CommandError as error:
        if not any(text in error.stderr for text in GONE):
            raise


GONE = (
    "Cannot find device",
    "Cannot delete qdisc with handle of zero",
    "No such file",
    "Invalid argument",
    "No such device",
)
