"""Whom a fault hits: by name, glob, group, profile or service; all that match, or some of them picked by the seed."""

from __future__ import annotations

import fnmatch
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, cast

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from topology import units
from topology.fields import Strict, problem
from topology.plan import FaultParams
from topology.profiles import DEVICES
from topology.schema.base import GroupName, device_name, enum_of, one_of
from topology.schema.devices import DeviceGroup

Service = Literal["broker", "coordinator", "hostd"]
SERVICES: tuple[Service, ...] = ("broker", "coordinator", "hostd")
PICKS = ("one", "majority")
_GLOB = r"^[a-z0-9*?\[\]!-]+$"

Pick = str | float  # one of PICKS, or a fraction


class Member(NamedTuple):
    """One device, as far as a target may be named by it."""

    name: str
    group: str
    profile: str


def members(devices: Mapping[str, DeviceGroup]) -> list[Member]:
    """Every device in the fleet's order."""
    return [
        Member(device_name(group, number), group, spec.profile)
        for group, spec in devices.items()
        for number in range(1, spec.count + 1)
    ]


def parse_pick(value: object) -> Pick:
    if isinstance(value, str) and value in PICKS:
        return value
    try:
        share = value if isinstance(value, float) else units.parse_ratio(value)
    except units.UnitError:
        share = 0.0
    if not 0 < share <= 1:
        raise problem("not a way to pick", "write one, majority, or a share like 30 %")
    return share


PickField = Annotated[
    Pick,
    PlainValidator(parse_pick),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^(one|majority|[0-9]+(\.[0-9]+)?\s*%)$"},
                {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            ],
            "description": "Picked by the seed: one of them, more than half, or a share.",
            "examples": ["one", "majority", "30 %"],
        }
    ),
]


class Aim(Strict):
    """Whom a fault hits. Text is short for it: `kill: pi4-3`, `kill: zero-*`, `kill: broker`, `kill: one`,
    `kill: majority`, `kill: everyone`.
    """

    services: ClassVar[frozenset[str]] = frozenset()  # which of SERVICES this fault can do something to

    device: Annotated[
        str | None,
        Field(
            pattern=_GLOB,
            max_length=63,
            description="A device name or a glob; * is everyone.",
            examples=["pi4-3", "zero-*"],
        ),
    ] = None
    group: Annotated[GroupName | None, Field(description="Every device of a group.")] = None
    profile: Annotated[
        str | None,
        one_of(DEVICES, "device profile"),
        Field(description="Every device of a profile.", json_schema_extra=enum_of(DEVICES)),
    ] = None
    service: Annotated[Service | None, Field(description="A service of the run in place of devices.")] = None
    count: Annotated[
        int | None, Field(ge=1, description="How many of them, picked by the seed; all without it.")
    ] = None
    pick: PickField | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value in SERVICES:
            return {"service": value}
        if value in PICKS:
            return {"device": "*", "pick": value}
        return {"device": "*" if value == "everyone" else value}

    @property
    def named_by(self) -> list[str]:
        """The keys that say whom; exactly one is wanted."""
        return [key for key in ("device", "group", "profile", "service") if getattr(self, key) is not None]

    def matches(self, fleet: Sequence[Member]) -> list[str]:
        """All that could be hit, in the fleet's order."""
        if self.service is not None:
            return [self.service]
        return [member.name for member in fleet if self._is_meant(member)]

    def _is_meant(self, member: Member) -> bool:
        if self.device is not None:
            return fnmatch.fnmatchcase(member.name, self.device)
        return self.group == member.group or (self.profile is not None and self.profile == member.profile)

    def targets(self, fleet: Sequence[Member], rng: random.Random) -> list[str]:
        """Who is hit, in the fleet's order."""
        found = self.matches(fleet)
        wanted = self._how_many(len(found))
        if wanted >= len(found):
            return found
        chosen = set(rng.sample(found, wanted))
        return [name for name in found if name in chosen]

    def _how_many(self, found: int) -> int:
        if self.count is not None:
            return self.count
        if self.pick is None:
            return found
        if self.pick == "one":
            return 1
        if self.pick == "majority":
            return found // 2 + 1
        return max(1, math.ceil(cast(float, self.pick) * found))


class FaultSpec(Aim):
    """One kind of fault: its targets, and keys of its own."""

    def params(self, targets: Iterable[str], devices: Mapping[str, DeviceGroup]) -> FaultParams:
        """What the fault needs besides its targets."""
        return FaultParams()
