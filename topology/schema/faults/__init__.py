"""The faults a file may ask for: what may be written. What they do is in `emulation.faults`, under the same names.

A new fault is one class in the module of its family, entered into FAULTS; the key of the entry is the key in the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

from pydantic import Field, create_model

from topology.fields import Strict, Wait
from topology.schema.faults.behaviour import (
    ClientTakeover,
    ClockOffset,
    CorruptPayload,
    DiskFull,
    DuplicateDelivery,
    LateDelivery,
    Poison,
)
from topology.schema.faults.generated import Churn, Random
from topology.schema.faults.life import CpuSlowdown, Kill, OutOfMemory, Pause, Restart, Stop
from topology.schema.faults.link import Flap, LinkChange, PacketCorruption, Partition
from topology.schema.faults.targets import SERVICES, Aim, FaultSpec, Member, members
from topology.schema.faults.triggers import TRIGGER_STATES, WhenField, parse_when

FAULTS: dict[str, type[FaultSpec]] = {
    "kill": Kill,
    "stop": Stop,
    "restart": Restart,
    "pause": Pause,
    "out_of_memory": OutOfMemory,
    "cpu_slowdown": CpuSlowdown,
    "link_change": LinkChange,
    "packet_corruption": PacketCorruption,
    "partition": Partition,
    "flap": Flap,
    "disk_full": DiskFull,
    "clock_offset": ClockOffset,
    "duplicate_delivery": DuplicateDelivery,
    "late_delivery": LateDelivery,
    "corrupt_payload": CorruptPayload,
    "poison": Poison,
    "client_takeover": ClientTakeover,
}
GENERATORS: dict[str, type[Churn | Random]] = {"churn": Churn, "random": Random}


class FaultBase(Strict):
    """When one fault strikes and when it heals. Exactly one of `at` and `when`; `churn` and `random` draw their own."""

    at: Annotated[Wait | None, Field(description="Time after the first round opened.")] = None
    when: Annotated[WhenField | None, Field(description="The event that sets it off.")] = None
    heal_after: Annotated[
        Wait | None, Field(description="Healed this long after it struck; never without it.")
    ] = None

    @property
    def kinds(self) -> list[str]:
        return [kind for kind in (*FAULTS, *GENERATORS) if getattr(self, kind) is not None]

    @property
    def kind(self) -> str:
        """The one fault of this entry; validation made sure that there is exactly one."""
        return self.kinds[0]

    @property
    def spec(self) -> FaultSpec | Churn | Random:
        return cast("FaultSpec | Churn | Random", getattr(self, self.kind))

    @property
    def generated(self) -> bool:
        return self.kind in GENERATORS


if TYPE_CHECKING:

    class Fault(FaultBase):
        """One planned fault."""

else:
    _kinds = {
        kind: (Annotated[spec | None, Field(description=" ".join(spec.__doc__.split()))], None)
        for kind, spec in (FAULTS | GENERATORS).items()
    }
    Fault = create_model("Fault", __base__=FaultBase, __doc__="One planned fault.", **_kinds)

__all__ = [
    "FAULTS",
    "GENERATORS",
    "SERVICES",
    "TRIGGER_STATES",
    "Aim",
    "Churn",
    "Fault",
    "FaultSpec",
    "Member",
    "Random",
    "members",
    "parse_when",
]
