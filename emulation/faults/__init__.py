"""Faults: what goes wrong on purpose. A new one is one file and one line here (docs/faults.md)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from emulation.faults.base import Fault
from emulation.faults.behaviour import Behaviour
from emulation.faults.client_takeover import ClientTakeover
from emulation.faults.cpu_slowdown import CpuSlowdown
from emulation.faults.flap import Flap
from emulation.faults.kill import Kill
from emulation.faults.link_change import LinkChange
from emulation.faults.out_of_memory import OutOfMemory
from emulation.faults.packet_corruption import PacketCorruption
from emulation.faults.partition import Partition
from emulation.faults.pause import Pause
from emulation.faults.restart import Restart
from emulation.faults.stop import Stop
from topology.plan.faults import BEHAVIOURS

MAKERS: tuple[Callable[[], Fault], ...] = (
    Kill,
    Stop,
    Pause,
    Restart,
    CpuSlowdown,
    LinkChange,
    PacketCorruption,
    Partition,
    Flap,
    OutOfMemory,
    ClientTakeover,
    *(partial(Behaviour, kind) for kind in BEHAVIOURS),
)
REGISTRY: dict[str, Fault] = {fault.kind: fault for fault in (make() for make in MAKERS)}
