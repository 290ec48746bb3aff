"""Faults of what a device does: its agent misbehaves on purpose, through a hook that only a plan with such a fault
opens (docs/faults.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from topology import units
from topology.fields import Fraction, Wait, problem
from topology.plan import FaultParams
from topology.schema.devices import DeviceGroup
from topology.schema.faults.targets import FaultSpec

OFFSET_S_MAX = 366 * 86_400.0  # a board without a battery wakes up in the year of its image


def parse_offset(value: object) -> float:
    """`-2 h` → -7200.0."""
    if isinstance(value, float):
        return value
    text = str(value).strip()
    sign = -1.0 if text.startswith("-") else 1.0
    try:
        offset_s = sign * units.parse_duration(text.removeprefix("-").removeprefix("+"))
    except units.UnitError as error:
        raise problem(error.message, error.hint) from None
    if not 0 < abs(offset_s) <= OFFSET_S_MAX:
        raise problem("not an offset of a clock", "other than 0, and within a year")
    return offset_s


SignedDuration = Annotated[
    float,
    PlainValidator(parse_offset),
    WithJsonSchema({"type": "string", "pattern": r"^\s*[+-]?\s*[0-9]+(\.[0-9]+)?\s*(us|ms|s|min|h)\s*$"}),
]


class DuplicateDelivery(FaultSpec):
    """Everything the device sends arrives twice."""


class LateDelivery(FaultSpec):
    """Offers and updates leave the device so much later."""

    delay: Annotated[Wait, Field(le=3600, description="Later than they would.", examples=["20 s"])] = 10.0

    def params(self, targets: Iterable[str], devices: Mapping[str, DeviceGroup]) -> FaultParams:
        return FaultParams(delay_s=self.delay)


class CorruptPayload(FaultSpec):
    """One bit in a share of the chunks of its updates is flipped after they were hashed."""

    share: Annotated[Fraction, Field(description="Of the chunks, picked by the seed.")] = 0.5

    def params(self, targets: Iterable[str], devices: Mapping[str, DeviceGroup]) -> FaultParams:
        return FaultParams(share=self.share)


class Poison(FaultSpec):
    """The device's updates are made worthless: not a number, turned round, or far too large."""

    how: Annotated[Literal["nan", "sign_flip", "scaled"], Field(description="What is done to them.")]
    factor: Annotated[
        float, Field(gt=1, le=1e6, description="What `scaled` multiplies by.", examples=[100.0])
    ] = 100.0

    def params(self, targets: Iterable[str], devices: Mapping[str, DeviceGroup]) -> FaultParams:
        return FaultParams(how=self.how, factor=self.factor)


class DiskFull(FaultSpec):
    """The device's spool takes no byte more: every write fails with `no space left on device`."""


class ClockOffset(FaultSpec):
    """The device's wall clock is off by `offset`; negative is behind."""

    offset: Annotated[SignedDuration, Field(description="What is added.", examples=["-2 h", "90 s"])]

    def params(self, targets: Iterable[str], devices: Mapping[str, DeviceGroup]) -> FaultParams:
        return FaultParams(offset_s=self.offset)


class ClientTakeover(FaultSpec):
    """Somebody with the device's own credentials connects under its name, again and again, until healed."""
