"""Battery and availability of a group of devices."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from topology import units
from topology.fields import Energy, Fraction, Power, Strict, Wait, problem
from topology.plan.power import Window

WINDOWS_MAX = 10_000  # of one device: a trace of a week at a minute a line
_WINDOW = re.compile(r"^(.+?)\s+-\s+(.+)$")
_EXAMPLE = "write it like `10 s - 40 s`"


def parse_window(value: object) -> Window:
    """`10 s - 40 s` → (10.0, 40.0)."""
    if isinstance(value, tuple):
        return (float(value[0]), float(value[1]))
    match = _WINDOW.match(str(value).strip())
    if match is None:
        raise problem("not a span of time", _EXAMPLE)
    try:
        begin, end = units.parse_duration(match[1]), units.parse_duration(match[2])
    except units.UnitError as error:
        raise problem(error.message, error.hint) from None
    if end <= begin:
        raise problem("a span that ends before it begins", _EXAMPLE)
    return begin, end


TimeSpan = Annotated[
    Window,
    PlainValidator(parse_window),
    WithJsonSchema({"type": "string", "pattern": r"^.+ - .+$", "examples": ["10 s - 40 s"]}),
]
TimeSpans = Annotated[list[TimeSpan], Field(min_length=1, max_length=WINDOWS_MAX)]


class Plugged(Strict):
    """When and how fast the battery charges."""

    power: Annotated[Power, Field(gt=0, description="Of the charger.", examples=["5 W"])]
    windows: Annotated[TimeSpans, Field(description="When it is plugged in, after the first round opened.")]
    every: Annotated[Wait | None, Field(description="The windows repeat with this period.")] = None


class Battery(Strict):
    """What a device runs on. It is stopped when empty, and started again when it has charged.

    Compute and bytes are measured: CPU seconds of the device's cgroup, bytes of its interface.
    """

    capacity: Annotated[Energy, Field(gt=0, description="When full.", examples=["200 J"])]
    charge: Annotated[Fraction, Field(description="At the start; full by default.")] = 1.0
    idle: Annotated[Power, Field(description="While the device is on.")] = 0.0
    compute: Annotated[Power, Field(description="On top of idle, per second of CPU time used.")] = 0.0
    per_megabyte: Annotated[Energy, Field(description="Per MB sent or received.")] = 0.0
    plugged: Annotated[Plugged | None, Field(description="Never, without it.")] = None
    stop_below: Annotated[Fraction, Field(description="The device goes off at this charge.")] = 0.05
    start_above: Annotated[Fraction, Field(description="And on again at this one.")] = 0.20


class Availability(Strict):
    """When a device is there. `windows`: as listed. `diurnal`: a share of each day, each device at its own hour.
    `trace`: a CSV file of `seconds,available` or `seconds,available,device`.
    """

    kind: Literal["windows", "diurnal", "trace"]
    effect: Annotated[
        Literal["stop", "disconnect"],
        Field(description="Away means: the container is stopped, or its link is cut."),
    ] = "disconnect"
    windows: Annotated[TimeSpans | None, Field(description="windows: when it is there.")] = None
    every: Annotated[Wait | None, Field(description="windows, trace: they repeat with this period.")] = None
    day: Annotated[Wait | None, Field(description="diurnal: how long a day of the run is.")] = None
    share: Annotated[Fraction | None, Field(description="diurnal: of the day a device is there.")] = None
    spread: Annotated[
        Fraction | None,
        Field(description="diurnal: standard deviation of the devices' hours, as a share of the day."),
    ] = None
    file: Annotated[str | None, Field(max_length=4096, description="trace: relative to this file.")] = None
