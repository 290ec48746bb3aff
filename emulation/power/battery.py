"""One battery: charge in, charge out, and whether the device is on. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from topology.availability import within
from topology.plan.power import BatteryPlan


@dataclass
class Meter:
    """A counter that begins at zero again with every boot of a container; `take` says what was added."""

    last: float | None = None

    def take(self, total: float) -> float:
        """Of the first reading nothing counts: what was used before the run is not the run's."""
        before, self.last = self.last, total
        if before is None:
            return 0.0
        return total - before if total >= before else total


class Battery:
    """`charge_j` never leaves [0, capacity]. Time is in seconds after the run began."""

    def __init__(self, plan: BatteryPlan, charge_j: float | None = None, empty: bool = False) -> None:
        self.plan = plan
        self.charge_j = plan.capacity_j * plan.charge if charge_j is None else charge_j
        self.empty = empty
        self._since = 0.0

    @property
    def share(self) -> float:
        return self.charge_j / self.plan.capacity_j

    def plugged(self, now_s: float) -> bool:
        return within(self.plan.plugged, self.plan.plugged_every_s, now_s)

    def drain(self, cpu_s: float, link_bytes: float) -> None:
        """What was computed and sent since the last call."""
        self._add(-(cpu_s * self.plan.compute_w + link_bytes * self.plan.byte_j))

    def pass_time(self, now_s: float, on: bool) -> None:
        """Charge and idle up to `now_s`; then the device goes off if it is empty, on if it has charged enough.

        The charger counts as it is at `now_s`: samples are seconds apart, windows usually minutes.
        """
        elapsed = max(0.0, now_s - self._since)
        self._since = now_s
        charging = self.plan.charger_w if self.plugged(now_s) else 0.0
        self._add(elapsed * (charging - (self.plan.idle_w if on else 0.0)))
        if self.share <= self.plan.stop_below:
            self.empty = True
        elif self.share >= self.plan.start_above:
            self.empty = False

    def _add(self, energy_j: float) -> None:
        self.charge_j = min(self.plan.capacity_j, max(0.0, self.charge_j + energy_j))
