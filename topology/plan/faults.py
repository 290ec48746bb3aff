"""Faults, resolved: what strikes whom, when, and when it heals."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from topology.plan.devices import Shape


class Trigger(Struct, frozen=True, kw_only=True):
    """When a fault fires: `at_s` after the run's first round opened, or when `round` enters `state`
    (`collecting`: its first update offer is in or half of its tasks have begun to train, see emulation.faults)."""

    at_s: float | None = None
    round: int | None = None
    state: Literal["training", "collecting", "closed"] | None = None


class FaultParams(Struct, frozen=True, kw_only=True):
    """What some faults need besides their targets; each reads its own and ignores the rest.

    `up`, `down`: the shapes of `link_change`, None leaves that direction. `cpus_factor`: `cpu_slowdown` multiplies the
    quota by it. `period_s`: `flap` cuts the link for one half of it. `direction`: which way `partition` and `flap` cut.
    """

    up: Shape | None = None
    down: Shape | None = None
    cpus_factor: float = 0.25
    period_s: float = 4.0
    direction: Literal["both", "up", "down"] = "both"


class FaultPlan(Struct, frozen=True, kw_only=True):
    id: str
    kind: str
    trigger: Trigger
    targets: tuple[str, ...]
    heal_after_s: float | None = None
    params: FaultParams = field(default_factory=FaultParams)
