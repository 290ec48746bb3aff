"""Battery and availability: every kind of availability becomes a list of windows, drawn once by the seed."""

from __future__ import annotations

import random
from pathlib import Path

from topology.availability import diurnal, read_trace
from topology.plan.power import AvailabilityPlan, BatteryPlan
from topology.schema.power import Availability, Battery

SPREAD_DEFAULT = 0.15  # of a day, where none is written: most devices meet, some never do


def compile_battery(given: Battery | None) -> BatteryPlan | None:
    if given is None:
        return None
    plugged = given.plugged
    return BatteryPlan(
        capacity_j=given.capacity,
        charge=given.charge,
        idle_w=given.idle,
        compute_w=given.compute,
        byte_j=given.per_megabyte / 1e6,
        charger_w=plugged.power if plugged else 0.0,
        plugged=tuple(plugged.windows) if plugged else (),
        plugged_every_s=plugged.every if plugged else None,
        stop_below=given.stop_below,
        start_above=given.start_above,
    )


def compile_availability(given: Availability | None, device: str, seed: int) -> AvailabilityPlan | None:
    """Raises TraceError for a trace that cannot be used; `topology.sources` has told the user already."""
    if given is None:
        return None
    if given.kind == "windows":
        return AvailabilityPlan(windows=tuple(given.windows or ()), every_s=given.every, effect=given.effect)
    if given.kind == "diurnal":
        assert given.day is not None, "checked by topology.checks.power"
        assert given.share is not None, "checked by topology.checks.power"
        rng = random.Random(f"edgerig/{seed}/availability/{device}")
        spread = SPREAD_DEFAULT if given.spread is None else given.spread
        windows = diurnal(given.day, given.share, spread, rng)
        return AvailabilityPlan(windows=windows, every_s=given.day, effect=given.effect)
    file = given.file or ""
    return AvailabilityPlan(
        windows=read_trace(Path(file)).windows(device),
        every_s=given.every,
        effect=given.effect,
        source=file,
    )
