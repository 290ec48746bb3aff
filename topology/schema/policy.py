"""How updates are scheduled into versions and merged."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from topology import units
from topology.fields import Fraction, Strict, Wait, problem
from topology.names import SELECTIONS
from topology.schema.base import DEVICES_MAX, enum_of, one_of

AUTO = "auto"
DEADLINE_S_MAX = 86_400.0  # as `Wait`: a day of one task is a typing error

DEADLINE_FLOOR_S = 5.0  # of `auto`: one bad reconnect lasts as long
DEADLINE_CEILING_S = 120.0  # of `auto`, and of a device that nothing is known of

# Which keys a kind reads, beside those that every kind has; `topology.checks.policy` refuses the others.
KEYS: dict[str, frozenset[str]] = {
    "synchronous": frozenset({"cohort", "over_select", "quorum", "carry_over"}),
    "buffered": frozenset({"concurrency", "buffer"}),
    "asynchronous": frozenset({"concurrency", "mixing"}),
    "tiered": frozenset({"cohort", "quorum", "tiers"}),
    "fedat": frozenset({"cohort", "tiers"}),
}
SELECTION_KEYS: dict[str, frozenset[str]] = {
    "random": frozenset(),
    "round_robin": frozenset(),
    "availability": frozenset({"charge_min"}),
    "bandwidth": frozenset(),
    "oort": frozenset({"exploration", "penalty", "window"}),
    "power_of_choice": frozenset({"candidates", "probe_samples", "probe_deadline"}),
}
STALENESS_KEYS: dict[str, frozenset[str]] = {
    "constant": frozenset(),
    "polynomial": frozenset({"exponent"}),
    "hinge": frozenset({"a", "b"}),
}


def _deadline(value: object) -> float | str:
    if value == AUTO:
        return AUTO
    try:
        seconds = units.parse_duration(value)
    except units.UnitError as error:
        raise problem(error.message, error.hint) from None
    if not 1.0 <= seconds <= DEADLINE_S_MAX:
        raise problem("a deadline is at least 1 s and at most 24 h", "write it like 30 s, or auto")
    return seconds


Deadline = Annotated[
    float | str,
    PlainValidator(_deadline),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": AUTO},
                {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*(us|ms|s|min|h)\s*$"},
            ],
            "description": "A duration, or auto: each device's own, from its history of compute and transfer.",
            "examples": ["30 s", AUTO],
        }
    ),
]


class Staleness(Strict):
    """How much an update counts that was trained on a version τ versions old: s(τ), with s(0) = 1."""

    kind: Literal["constant", "polynomial", "hinge"] = "constant"
    exponent: Annotated[
        float | None, Field(gt=0, le=10, description="polynomial: (1 + τ)^-exponent; 0.5 by default.")
    ] = None
    a: Annotated[
        float | None, Field(gt=0, le=1000, description="hinge: 1 / (a (τ - b) + 1) above b; 10 by default.")
    ] = None
    b: Annotated[float | None, Field(ge=0, le=1000, description="hinge: no damping up to b; 4.")] = None


SelectionName = Annotated[
    str, one_of(SELECTIONS, "selection"), Field(json_schema_extra=enum_of(SELECTIONS.built_in))
]


class Selection(Strict):
    """Who is given a task next, among the devices that are free. A name alone is its `kind`."""

    kind: SelectionName = "random"
    min_share: Annotated[
        float, Field(ge=0, le=1, description="No device gets less than this of an equal share of the tasks.")
    ] = 0.5
    charge_min: Annotated[
        Fraction | None,
        Field(description="availability: below it, and unplugged, only if others are not enough; 0.2."),
    ] = None
    exploration: Annotated[
        float | None, Field(ge=0, le=1, description="oort: share of new devices, at first; 0.9 by default.")
    ] = None
    penalty: Annotated[
        float | None, Field(ge=0, le=10, description="oort: exponent against slow devices; 2 by default.")
    ] = None
    window: Annotated[
        int | None, Field(ge=1, le=1000, description="oort: versions that the pacer compares; 20.")
    ] = None
    candidates: Annotated[
        int | None,
        Field(
            ge=1,
            le=DEVICES_MAX,
            description="power_of_choice: devices that are asked for their loss; twice the cohort by default.",
        ),
    ] = None
    probe_samples: Annotated[
        int | None,
        Field(ge=1, le=1_000_000, description="power_of_choice: samples of a device's loss, at most; 256."),
    ] = None
    probe_deadline: Annotated[
        Wait | None,
        Field(
            description="power_of_choice: how long losses are waited for; the round's deadline by default."
        ),
    ] = None


def _name_alone(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


class Policy(Strict):
    """A schedule: synchronous rounds (a cohort, a deadline, a quorum), buffered (a version for every `buffer`
    updates, whoever they are from), asynchronous (a version for every update), tiered (rounds within classes
    of speed, one after the other) or fedat (the same at the same time, the slow counting more).
    """

    kind: Literal["synchronous", "buffered", "asynchronous", "tiered", "fedat"] = "synchronous"
    cohort: Annotated[
        int | None,
        Field(
            ge=1,
            le=DEVICES_MAX,
            description="Devices per round: all by default; tiered and fedat: all of the tier.",
        ),
    ] = None
    over_select: Annotated[
        float | None,
        Field(ge=1, le=4, description="Give out this many times the cohort; surplus is late. 1 by default."),
    ] = None
    quorum: Annotated[
        Fraction | None, Field(description="Share of the cohort that is enough at the deadline; all of it.")
    ] = None
    carry_over: Annotated[
        bool | None,
        Field(description="Late updates go into the next version, damped, instead of being discarded."),
    ] = None
    concurrency: Annotated[
        int | None,
        Field(ge=1, le=DEVICES_MAX, description="Devices that train at the same time: all by default."),
    ] = None
    buffer: Annotated[
        int | None,
        Field(ge=1, le=DEVICES_MAX, description="Updates of a version; 10, or all devices, by default."),
    ] = None
    mixing: Annotated[
        float | None, Field(gt=0, le=1, description="Share of an update that is not stale: α; 0.6.")
    ] = None
    tiers: Annotated[int | None, Field(ge=2, le=16, description="Classes of speed; 3 by default.")] = None
    selection: Annotated[
        Selection, BeforeValidator(_name_alone), Field(description="Who is given a task next.")
    ] = Selection()
    deadline: Annotated[
        Deadline, Field(description="Of a round, or of a task where versions do not wait for it.")
    ] = 60.0
    deadline_floor: Annotated[
        Wait | None, Field(ge=0.1, description="With deadline: auto, never less than this; 5 s by default.")
    ] = None
    deadline_ceiling: Annotated[
        Wait | None, Field(ge=1, description="With deadline: auto, never more than this; 2 min by default.")
    ] = None
    staleness: Annotated[Staleness, Field(description="How updates of older versions count.")] = Staleness()
    max_staleness: Annotated[
        int | None,
        Field(ge=0, le=1_000_000, description="Updates more versions old than this are discarded."),
    ] = None
    server_lr: Annotated[
        float, Field(gt=0, le=100, description="Step of the model per merged mean update.")
    ] = 1.0
