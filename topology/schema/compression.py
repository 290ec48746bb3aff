"""What is done to the bytes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator

from topology import units
from topology.errors import did_you_mean
from topology.fields import Fraction, Strict, problem
from topology.names import QUANTIZERS
from topology.schema.base import enum_of, one_of


class Kept(NamedTuple):
    """How much of an update is sent: a share of its elements, or as many as fit into so many bytes. One is set."""

    fraction: float | None = None
    size_bytes: int | None = None


def parse_kept(value: object) -> Kept:
    if isinstance(value, Kept):
        return value
    if isinstance(value, str) and value.strip().endswith("B"):
        try:
            return Kept(size_bytes=units.parse_size(value))
        except units.UnitError as error:
            raise problem(error.message, error.hint) from None
    try:
        fraction = units.parse_ratio(value)
    except units.UnitError:
        fraction = -1.0
    if not 0 < fraction <= 1:
        raise problem("not a share of an update", "write it like 0.01, 1 % or 20 kB")
    return Kept(fraction=fraction)


Amount = Annotated[
    Kept,
    PlainValidator(parse_kept),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*(%|B|kB|MB|KiB|MiB)\s*$"},
            ],
            "description": "A share of the entries (0.01, 1 %), or a budget for the whole update (20 kB).",
            "examples": [0.01, "1 %", "20 kB"],
        }
    ),
]


class Sparsify(Strict):
    """Which entries of an update are sent; the rest stays on the device as residual. One of the three kinds."""

    top_k: Annotated[Amount | None, Field(description="The largest ones.")] = None
    random_k: Annotated[
        Amount | None, Field(description="Drawn from a seed both sides know: no positions are sent.")
    ] = None
    threshold: Annotated[float | None, Field(gt=0, description="All from this magnitude on.")] = None
    per_layer: Annotated[bool, Field(description="top_k: that share of every layer.")] = False

    @model_validator(mode="after")
    def _one_kind(self) -> Sparsify:
        kinds = [kind for kind in ("top_k", "random_k", "threshold") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise problem(
                "exactly one of top_k, random_k and threshold is needed",
                f"here are {' and '.join(kinds)}" if kinds else "like {top_k: 1 %}",
            )
        return self


class ResidualDecay(Strict):
    """What is many versions old points to where the model no longer is."""

    after: Annotated[int, Field(ge=0, le=1_000_000, description="Versions for which all of it is kept.")] = 10
    factor: Annotated[float, Field(ge=0, le=1, description="Then it is scaled by this per version.")] = 0.5


class ErrorFeedback(Strict):
    """What becomes of that which compression leaves out."""

    kind: Annotated[
        Literal["plain", "dgc", "off"],
        Field(description="Into the next update; the same with momentum (deep gradient compression); lost."),
    ] = "plain"
    momentum: Annotated[
        float | None, Field(gt=0, lt=1, description="dgc: of the device's updates; 0.9 by default.")
    ] = None
    warm_up: Annotated[
        int | None, Field(ge=0, le=1000, description="Rounds in which the share falls from 25 % to its own.")
    ] = None
    decay: ResidualDecay | None = None
    restart: Annotated[
        Literal["keep", "fresh"], Field(description="fresh: a device that starts again drops its residual.")
    ] = "keep"


class Adaptive(Strict):
    """The coordinator chooses chain, k and bits for every task: from the device's measured uplink, the deadline and
    how fast the model still improves.
    """

    least: Annotated[Fraction, Field(description="The smallest share it may choose.")] = 0.0025
    most: Annotated[Fraction, Field(description="The largest.")] = 0.1
    upload_share: Annotated[Fraction, Field(description="Of the deadline, for the upload at most.")] = 0.5


# Chains with a name: `uplink: stc`. Every one can be written out, and then changed.
PRESETS: dict[str, dict[str, Any]] = {
    "none": {"entropy": "none"},
    "lossless": {"entropy": "lossless"},
    "fp16": {"quantize": "fp16", "entropy": "lossless"},
    "int8": {"quantize": "int8"},
    "top-k": {"sparsify": {"top_k": 0.01}, "quantize": "int8", "entropy": "smallest"},
    "stc": {"sparsify": {"top_k": 0.0025}, "quantize": "ternary", "entropy": "smallest"},
    "dgc": {
        "sparsify": {"top_k": 0.001},
        "entropy": "smallest",
        "error_feedback": {"kind": "dgc", "momentum": 0.9, "warm_up": 4},
    },
    "drive": {
        "rotate": "hadamard",
        "quantize": "eden",
        "bits": 1,
        "entropy": "none",
        "error_feedback": "off",
    },
    "eden": {
        "rotate": "hadamard",
        "quantize": "eden",
        "bits": 4,
        "entropy": "none",
        "error_feedback": "off",
    },
    "qsgd": {"quantize": "qsgd", "levels": 16, "error_feedback": "off"},
    "auto": {"adaptive": {}},
}


def _none_is_absent(value: Any) -> Any:
    return None if value == "none" else value


def _feedback(value: Any) -> Any:
    """`off`, `plain` and `dgc` by themselves."""
    return {"kind": value} if isinstance(value, str) else value


class Uplink(Strict):
    """From the devices: sparsify, rotate, quantize, entropy-code; freely composed."""

    sparsify: Annotated[
        Sparsify | None, BeforeValidator(_none_is_absent), Field(description="`none`, or {top_k: 0.01}.")
    ] = None
    rotate: Annotated[
        Literal["none", "hadamard"], Field(description="Spreads energy over all values before quantizing.")
    ] = "none"
    quantize: Annotated[
        str, one_of(QUANTIZERS, "quantizer"), Field(json_schema_extra=enum_of(QUANTIZERS.built_in))
    ] = "none"
    bits: Annotated[int | None, Field(ge=1, le=4, description="eden: per value; 1 is DRIVE.")] = None
    levels: Annotated[int | None, Field(ge=1, le=127, description="qsgd: steps of the norm; 16.")] = None
    block: Annotated[
        int | None,
        Field(ge=0, le=1 << 24, description="Values that share a scale; 0: all. 1024 when dense."),
    ] = None
    entropy: Annotated[
        Literal["none", "zstd", "golomb", "lossless", "smallest"],
        Field(description="smallest: tries everything and keeps the best."),
    ] = "zstd"
    error_feedback: Annotated[ErrorFeedback, BeforeValidator(_feedback)] = ErrorFeedback()
    bypass: Annotated[
        Literal["tiny", "none"], Field(description="tiny: biases, normalisation go beside it as float16.")
    ] = "tiny"
    adaptive: Annotated[Adaptive | None, Field(description="Instead of a chain; `uplink: auto`.")] = None


class Downlink(Strict):
    """To the devices: versions as float16, int8 or exact float32, whole or as the difference to one that a device
    holds. What rounding leaves out stays with the coordinator and goes into the next version.
    """

    quantize: Literal["none", "fp16", "int8"] = "fp16"
    delta: Annotated[
        Fraction,
        Field(description="Share of the parameters that a version renews: smaller differences. 1: all."),
    ] = 1.0


def _preset(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in PRESETS:
        raise problem("no such chain", did_you_mean(value, PRESETS))
    return PRESETS[value]


class Compression(Strict):
    """What is done to the bytes, per direction. `compression: auto` is `{uplink: auto}`."""

    uplink: Annotated[Uplink, BeforeValidator(_preset)] = Uplink()
    downlink: Downlink = Downlink()


def expand(value: Any) -> Any:
    """The section in short: a preset of the uplink."""
    return {"uplink": value} if isinstance(value, str) else value
