"""Cut a link: drop everything on the receiver's INPUT, before any delay queue; and see whether a packet passes.

Both work under every backend, since neither touches what shapes the link.
"""

from __future__ import annotations

import select
import socket
import time
from functools import cache, partial

from emulation.commands import CommandError
from emulation.links.base import DIRECTIONS, Direction, LinkEnds
from emulation.links.nfqueue import PROGRAMS
from emulation.links.scratch import scratch_namespace
from emulation.netns import Netns
from topology.plan import Shape

PACKETS = 5  # with 20 % loss all five are lost once in three thousand times
SETTLE_S = 0.25


@cache
def drop_program() -> str:
    """The iptables that can drop here. Raises CommandError with what every one of them said."""
    problems = []
    with scratch_namespace() as netns:
        for program in PROGRAMS:
            try:
                netns.run(program, "-w", "5", "-A", "INPUT", "-i", "lo", "-j", "DROP")
                return program
            except CommandError as error:
                problems.append(str(error))
    raise CommandError(["iptables"], 1, "; ".join(problems))


def _rule(ends: LinkEnds, way: Direction) -> tuple[Netns, list[str]]:
    netns = ends.broker_ns if way == "up" else ends.device_ns
    interface = ends.broker_interface if way == "up" else ends.device_interface
    source = ends.address if way == "up" else ends.broker_address
    comment = ["-m", "comment", "--comment", f"edgerig cut {ends.device}"]
    return netns, ["INPUT", "-i", interface, "-s", f"{source}/32", *comment, "-j", "DROP"]


def is_cut(ends: LinkEnds, way: Direction) -> bool:
    netns, rule = _rule(ends, way)
    try:
        netns.run(drop_program(), "-w", "5", "-C", *rule)
    except CommandError as error:
        if error.returncode == 1:
            return False
        raise
    return True


def cut(ends: LinkEnds, ways: tuple[Direction, ...]) -> None:
    for way in ways:
        if not is_cut(ends, way):
            netns, rule = _rule(ends, way)
            netns.run(drop_program(), "-w", "5", "-I", *rule)


def mend(ends: LinkEnds) -> None:
    for way in DIRECTIONS:
        netns, rule = _rule(ends, way)
        while is_cut(ends, way):
            netns.run(drop_program(), "-w", "5", "-D", *rule)


def passes(ends: LinkEnds, way: Direction, shape: Shape) -> bool:
    """Whether any of five small packets arrives within the link's delay and a quarter of a second."""
    sender_ns, receiver_ns = (
        (ends.device_ns, ends.broker_ns) if way == "up" else (ends.broker_ns, ends.device_ns)
    )
    target = ends.broker_address if way == "up" else ends.address
    make = partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    with receiver_ns.call(make) as receiver, sender_ns.call(make) as sender:
        receiver.bind(("0.0.0.0", 0))
        for _ in range(PACKETS):
            sender.sendto(b"edgerig", (target, receiver.getsockname()[1]))
        queue_s = (shape.queue_bytes or 0) * 8 / shape.rate_bit_s if shape.rate_bit_s else 0.0
        wait_s = shape.delay_s + 4 * shape.jitter_s + max(queue_s, SETTLE_S)
        until = time.monotonic() + wait_s
        ready, _, _ = select.select([receiver], [], [], max(0.0, until - time.monotonic()))
        return bool(ready)
