"""A device's battery, and when the device is there at all, resolved."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Window = tuple[float, float]
"""From, to: seconds after the first round opened, or of a period."""

Effect = Literal["stop", "disconnect"]


class BatteryPlan(Struct, frozen=True, kw_only=True):
    """Energies in joules, powers in watts, charges as shares of the capacity.

    What drains it is measured, not assumed: CPU seconds of the device's own cgroup, bytes of its interface.
    An empty device is stopped, and started again when it has charged to `start_above`.
    """

    capacity_j: float
    charge: float = 1.0
    idle_w: float = 0.0
    compute_w: float = 0.0  # on top of idle, per CPU second really used
    byte_j: float = 0.0  # per byte on the device's interface, both directions
    charger_w: float = 0.0
    plugged: tuple[Window, ...] = ()
    plugged_every_s: float | None = None  # the windows repeat with this period
    stop_below: float = 0.05
    start_above: float = 0.20


class AvailabilityPlan(Struct, frozen=True, kw_only=True):
    """The device is there within `windows`; outside it is stopped, or its link is cut."""

    windows: tuple[Window, ...]
    every_s: float | None = None
    effect: Effect = "disconnect"
    source: str = ""  # the trace's file, where the windows come from one
