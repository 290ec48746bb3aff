"""Battery and availability: keys that belong together, charges that make sense."""

from __future__ import annotations

from collections.abc import Iterator

from topology.checks.registry import Problem, check
from topology.errors import Path
from topology.schema import Topology
from topology.schema.power import Availability, Battery

KEYS = {"windows": {"windows", "every"}, "diurnal": {"day", "share", "spread"}, "trace": {"file", "every"}}
NEEDED = {"windows": {"windows"}, "diurnal": {"day", "share"}, "trace": {"file"}}
PERIOD_S_MIN = 1.0  # stopping and starting a container takes about so long; a shorter day is only noise


@check("devices", "links", "resources")
def power_makes_sense(topology: Topology) -> Iterator[Problem]:
    for group, spec in topology.devices.items():
        path: Path = ("devices", group)
        if spec.battery is not None:
            yield from _battery(spec.battery, (*path, "battery"))
        if spec.availability is not None:
            yield from _availability(spec.availability, (*path, "availability"))


def _battery(given: Battery, path: Path) -> Iterator[Problem]:
    if given.start_above <= given.stop_below:
        yield Problem(
            (*path, "start_above"),
            f"not above stop_below, {given.stop_below:g}: the device would go on and off for ever",
            f"more than {given.stop_below:g}",
        )
    if given.charge <= given.stop_below:
        yield Problem((*path, "charge"), "the device would be off from the start", "more than stop_below")
    if given.plugged is not None and given.plugged.every is not None:
        yield from _period(given.plugged.every, given.plugged.windows, (*path, "plugged", "every"))


def _availability(given: Availability, path: Path) -> Iterator[Problem]:
    written = {key for key in given.model_fields_set if getattr(given, key) is not None} - {"kind", "effect"}
    for key in sorted(written - KEYS[given.kind]):
        kinds = ", ".join(kind for kind, keys in KEYS.items() if key in keys)
        yield Problem((*path, key), f"belongs to kind: {kinds}, not to {given.kind}", "remove it")
    for key in sorted(NEEDED[given.kind] - written):
        yield Problem(
            path, f"kind: {given.kind} needs `{key}`", f"keys: {', '.join(sorted(KEYS[given.kind]))}"
        )
    if given.every is not None:
        yield from _period(given.every, given.windows or [], (*path, "every"))
    if given.day is not None and given.day < PERIOD_S_MIN:
        yield Problem((*path, "day"), "a day this short only flaps", f"at least {PERIOD_S_MIN:g} s")


def _period(every_s: float, windows: list[tuple[float, float]], path: Path) -> Iterator[Problem]:
    if every_s < PERIOD_S_MIN:
        yield Problem(path, "a period this short only flaps", f"at least {PERIOD_S_MIN:g} s")
    last = max((end for _, end in windows), default=0.0)
    if last > every_s:
        yield Problem(path, f"a window ends at {last:g} s, after the period", f"at least {last:g} s")
