"""The faults a file may ask for: what may be written. What they do is in `emulation.faults`, under the same
names.

A new fault is one class here, entered into FAULTS; the key of the entry is the key in the file.
"""

from __future__ import annotations

import fnmatch
import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, cast

from pydantic import Field, PlainValidator, WithJsonSchema, create_model

from topology.fields import Strict, Wait, problem
from topology.plan import FaultParams

Direction = Literal["both", "up", "down"]
TriggerState = Literal["training", "collecting", "closed"]
TRIGGER_STATES: tuple[TriggerState, ...] = ("training", "collecting", "closed")
_WHEN = re.compile(r"^round ([1-9][0-9]{0,5}) (\w+)$", re.ASCII)
_PATTERN = r"^[a-z0-9*?\[\]!-]+$"


class When(NamedTuple):
    """`round 3 training`: fires when the round enters the state."""

    round: int
    state: TriggerState


def parse_when(value: object) -> When:
    if isinstance(value, When):
        return value
    match = _WHEN.match(" ".join(str(value).split()))
    if match is None or match[2] not in TRIGGER_STATES:
        raise problem(
            "not a trigger", f"write it like `round 3 training`; states: {', '.join(TRIGGER_STATES)}"
        )
    return When(int(match[1]), cast(TriggerState, match[2]))


WhenField = Annotated[
    When,
    PlainValidator(parse_when),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": rf"^round [1-9][0-9]* ({'|'.join(TRIGGER_STATES)})$",
            "examples": ["round 3 training"],
        }
    ),
]


class DeviceFault(Strict):
    """A fault of devices: a name or glob; all that match, or `count` of them picked by the seed."""

    device: Annotated[
        str,
        Field(
            pattern=_PATTERN,
            max_length=63,
            description="A device name or a glob.",
            examples=["pi4-3", "zero-*"],
        ),
    ]
    count: Annotated[
        int | None, Field(ge=1, description="How many of them, picked by the seed; all without it.")
    ] = None

    def matches(self, devices: Sequence[str]) -> list[str]:
        return [name for name in devices if fnmatch.fnmatchcase(name, self.device)]

    def targets(self, devices: Sequence[str], rng: random.Random) -> list[str]:
        """Which devices are hit, in the fleet's order."""
        found = self.matches(devices)
        if self.count is None or self.count >= len(found):
            return found
        chosen = set(rng.sample(found, self.count))
        return [name for name in found if name in chosen]

    def params(self) -> FaultParams:
        """What the fault needs besides its targets."""
        return FaultParams()


class Kill(DeviceFault):
    """SIGKILL of the device's agent; healing starts it again in a fresh namespace."""


class Stop(DeviceFault):
    """SIGTERM, then SIGKILL after ten seconds; healing starts it again in a fresh namespace."""


class Restart(DeviceFault):
    """Stopped and started at once."""


class Pause(DeviceFault):
    """Frozen with its connections open, as a device that hangs; healing thaws it."""


class CpuSlowdown(DeviceFault):
    """The quota times `factor`, live."""

    factor: Annotated[float, Field(gt=0, lt=1, description="What is left of the quota.", examples=[0.25])] = (
        0.25
    )

    def params(self) -> FaultParams:
        return FaultParams(cpus_factor=self.factor)


class Partition(DeviceFault):
    """Nothing passes between device and broker, both ways or one."""

    direction: Annotated[Direction, Field(description="Which way is cut, seen from the device.")] = "both"

    def params(self) -> FaultParams:
        return FaultParams(direction=self.direction)


class Flap(Partition):
    """The link is cut for one half of each period and whole for the other."""

    period: Annotated[Wait, Field(description="Of one cut and one mend.", examples=["4 s"])] = 4.0

    def params(self) -> FaultParams:
        return FaultParams(direction=self.direction, period_s=self.period)


FAULTS: dict[str, type[DeviceFault]] = {
    "kill": Kill,
    "stop": Stop,
    "restart": Restart,
    "pause": Pause,
    "cpu_slowdown": CpuSlowdown,
    "partition": Partition,
    "flap": Flap,
}


class FaultBase(Strict):
    """When one fault strikes and when it heals. Exactly one of `at` and `when`."""

    at: Annotated[Wait | None, Field(description="Time after the first round opened.")] = None
    when: Annotated[WhenField | None, Field(description="The round and state that set it off.")] = None
    heal_after: Annotated[
        Wait | None, Field(description="Healed this long after it struck; never without it.")
    ] = None

    @property
    def kinds(self) -> list[str]:
        return [kind for kind in FAULTS if getattr(self, kind) is not None]

    @property
    def kind(self) -> str:
        """The one fault of this entry; validation made sure that there is exactly one."""
        return self.kinds[0]

    @property
    def spec(self) -> DeviceFault:
        return cast(DeviceFault, getattr(self, self.kind))


if TYPE_CHECKING:

    class Fault(FaultBase):
        """One planned fault."""

else:
    _kinds = {
        kind: (Annotated[spec | None, Field(description=" ".join(spec.__doc__.split()))], None)
        for kind, spec in FAULTS.items()
    }
    Fault = create_model("Fault", __base__=FaultBase, __doc__="One planned fault.", **_kinds)
