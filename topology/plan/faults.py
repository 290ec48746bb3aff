"""Faults, resolved: what strikes whom, when, and when it heals. Everything random has been drawn already."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from topology.plan.devices import Link, Shape

TriggerState = Literal["training", "collecting", "closed"]
FLAP_S_MIN = (
    0.5  # of one period: a turn of hostd's loop takes 50 ms, two commands in a namespace about as long
)
BROKER, COORDINATOR, HOSTD = "broker", "coordinator", "hostd"

# What of its target a fault holds while it is in force; two faults that hold the same contradict each other.
HOLDS: dict[str, str] = {
    "kill": "life",
    "stop": "life",
    "restart": "life",
    "pause": "life",
    "out_of_memory": "life",
    "cpu_slowdown": "cpu",
    "link_change": "link",
    "packet_corruption": "link",
    "partition": "cut",
    "flap": "cut",
}
# Kinds that need their target alive to strike (what dies afterwards does not matter).
NEED_LIFE = frozenset({"cpu_slowdown", "client_takeover"})
# What a device's agent does itself, through its hook (edge_agent.hooks); each holds itself and needs life.
BEHAVIOURS = (
    "disk_full",
    "clock_offset",
    "duplicate_delivery",
    "late_delivery",
    "corrupt_payload",
    "poison",
)


def holds(kind: str) -> str:
    return HOLDS.get(kind, kind)


def contradict(new: str, in_force: str) -> bool:
    """Whether a fault cannot strike a target on which another is in force: it holds the same, or needs it alive."""
    needy = new in NEED_LIFE or new in BEHAVIOURS
    return holds(new) == holds(in_force) or (needy and holds(in_force) == "life")


class Trigger(Struct, frozen=True, kw_only=True):
    """When a fault fires; one of these is set (emulation.faults.core says exactly what each means).

    `at_s` after the run's first round opened; `round` enters `state`; `bytes_share` of a target's update has left
    it; so many `updates_merged` in all; `version` was committed. None of them: by hand, at once.
    """

    at_s: float | None = None
    round: int | None = None
    state: TriggerState | None = None
    bytes_share: float | None = None
    updates_merged: int | None = None
    version: int | None = None

    @property
    def text(self) -> str:
        if self.at_s is not None:
            return f"{self.at_s:g} s after the first round opened"
        if self.round is not None:
            return f"round {self.round} {self.state or ''}".strip()
        if self.bytes_share is not None:
            return f"{self.bytes_share * 100:g} % of bytes sent"
        if self.updates_merged is not None:
            return f"{self.updates_merged} updates merged"
        return f"version {self.version}" if self.version is not None else "by hand"


class FaultParams(Struct, frozen=True, kw_only=True):
    """What some faults need besides their targets; each reads its own and ignores the rest.

    `links`: the new link of each target of `link_change`; where it has none, `up` and `down`, of which None leaves that
    direction. `cpus_factor`: `cpu_slowdown` multiplies the quota by it. `period_s`: `flap` cuts the link for one half
    of it. `direction`: which way `partition` and `flap` cut. `delay_s` of `late_delivery`, `share` of the chunks that
    `corrupt_payload` spoils, `how` and `factor` of `poison`, `offset_s` of `clock_offset`.
    """

    links: dict[str, Link] = field(default_factory=dict)
    up: Shape | None = None
    down: Shape | None = None
    cpus_factor: float = 0.25
    period_s: float = 4.0
    direction: Literal["both", "up", "down"] = "both"
    delay_s: float = 0.0
    share: float = 0.0
    how: str = ""
    factor: float = 1.0
    offset_s: float = 0.0


class FaultPlan(Struct, frozen=True, kw_only=True):
    """`entry`: the place in the file's list that it comes from, -1 for one by hand."""

    id: str
    kind: str
    trigger: Trigger
    targets: tuple[str, ...]
    heal_after_s: float | None = None
    params: FaultParams = field(default_factory=FaultParams)
    entry: int = -1
