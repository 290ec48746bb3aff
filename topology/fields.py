"""Field types of the schema: quantities that pydantic validates with `topology.units` and editors check by
pattern.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from topology import units


class Strict(BaseModel):
    """Base of every model of the file: unknown keys, and values of a neighbouring type, are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def problem(message: str, hint: str = "") -> PydanticCustomError:
    """An error of ours inside a pydantic validator; `topology.validate` takes message and hint out again."""
    return PydanticCustomError("edgerig", "{message}", {"message": message, "hint": hint})


def _with_units(parse: Callable[[object], Any]) -> BeforeValidator:
    def validate(value: object) -> Any:
        try:
            return parse(value)
        except units.UnitError as error:
            raise problem(error.message, error.hint) from None

    return BeforeValidator(validate)


def _schema(unit_names: str, description: str, example: str) -> WithJsonSchema:
    pattern = rf"^\s*[0-9]+(\.[0-9]+)?\s*({unit_names})\s*$"
    return WithJsonSchema(
        {"type": "string", "pattern": pattern, "description": description, "examples": [example]}
    )


_DURATION = _schema("us|ms|s|min|h", "A duration with its unit.", "80 ms")
_PERCENT = _schema("%", "A percentage.", "1 %")
_RATIO = WithJsonSchema(
    {
        "anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*%\s*$"}],
        "description": "A fraction (0.01) or a percentage (1 %).",
        "examples": [0.01, "1 %"],
    }
)

Rate = Annotated[int, _with_units(units.parse_rate), _schema("[kMG]?bit/s", "A rate in bit/s.", "1 Mbit/s")]
Size = Annotated[
    int,
    _with_units(units.parse_size),
    _schema("B|kB|MB|GB|KiB|MiB|GiB", "A size: kB is 1000, KiB 1024 bytes.", "64 KiB"),
]
# A delay or wait beyond these is a typing error, not an experiment; see each key.
Delay = Annotated[float, Field(ge=0, le=60), _with_units(units.parse_duration), _DURATION]
Moment = Annotated[float, Field(ge=0, le=86_400), _with_units(units.parse_duration), _DURATION]
Wait = Annotated[float, Field(gt=0, le=86_400), _with_units(units.parse_duration), _DURATION]
Loss = Annotated[float, Field(ge=0, lt=1), _with_units(units.parse_percent), _PERCENT]
Percent = Annotated[float, Field(ge=0, le=1), _with_units(units.parse_percent), _PERCENT]
Fraction = Annotated[float, Field(gt=0, le=1), _with_units(units.parse_ratio), _RATIO]
Energy = Annotated[
    float, Field(ge=0, le=1e9), _with_units(units.parse_energy), _schema("J|kJ|mWh|Wh", "An energy.", "40 J")
]
Power = Annotated[
    float, Field(ge=0, le=1e6), _with_units(units.parse_power), _schema("mW|W", "A power.", "0.5 W")
]
ToleranceRatio = Annotated[float, Field(gt=0, le=0.5), _with_units(units.parse_percent), _PERCENT]


class QueueLimit(NamedTuple):
    """What may wait before a shaper: so many seconds of the link's rate, or so many bytes. One of them is
    set.
    """

    duration_s: float | None = None
    size_bytes: int | None = None


def parse_queue(value: object) -> QueueLimit:
    if isinstance(value, QueueLimit):
        return value
    try:
        return QueueLimit(duration_s=units.parse_duration(value))
    except units.UnitError:
        pass
    try:
        return QueueLimit(size_bytes=units.parse_size(value))
    except units.UnitError:
        raise problem("not the length of a queue", "write it like 200 ms or 64 KiB") from None


Queue = Annotated[
    QueueLimit,
    PlainValidator(parse_queue),
    _schema("us|ms|s|min|h|B|kB|MB|GB|KiB|MiB|GiB", "A duration at the link's rate, or a size.", "200 ms"),
]
