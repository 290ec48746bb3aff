"""Devices, their links, the network between them, and how exact they have to be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from topology.fields import Delay, Size, Strict, ToleranceRatio, problem
from topology.link_features import CHOICES
from topology.link_spec import LinkKeys, Shorthand
from topology.profiles import DEVICES, LINKS, REFUSED_LINKS
from topology.schema.base import DEVICES_MAX, enum_of, one_of
from topology.schema.power import Availability, Battery


def _is_carrier(value: object) -> object:
    if isinstance(value, str) and value in REFUSED_LINKS:
        raise problem(REFUSED_LINKS[value], f"allowed: {', '.join(LINKS)}")
    return value


class LinkSpec(LinkKeys, Shorthand):
    """A link: a profile's name, or its numbers, or a profile with some numbers of one's own.

    `delay` is one-way and holds in each direction, like every number that `up` or `down` does not have itself. Without
    a rate it is unlimited.
    """

    shorthand = "profile"
    profile: Annotated[
        str | None,
        one_of(LINKS, "link profile"),
        BeforeValidator(_is_carrier),
        Field(description="Where the numbers left out come from.", json_schema_extra=enum_of(LINKS)),
    ] = None


class DeviceGroup(Strict):
    """`count` devices of one kind, named `<group>-1`, `<group>-2`, ... The profile's numbers may be
    overridden.
    """

    profile: Annotated[str, one_of(DEVICES, "device profile"), Field(json_schema_extra=enum_of(DEVICES))]
    count: Annotated[int, Field(ge=1, le=DEVICES_MAX)] = 1
    link: LinkSpec
    cpus: Annotated[float | None, Field(ge=0.01, le=256, description="Share of a host core.")] = None
    memory: Annotated[
        Size | None, Field(ge=64 * 1024 * 1024, description="Memory limit, at least 64 MiB.")
    ] = None
    threads: Annotated[int | None, Field(ge=1, le=64, description="Threads of the training session.")] = None
    cpu_period: Annotated[
        Delay,
        Field(ge=0.001, le=1.0, description="Of the CPU quota, 1 ms to 1 s; 100 ms by default."),
    ] = 0.1
    battery: Annotated[Battery | None, Field(description="Mains, without it.")] = None
    availability: Annotated[Availability | None, Field(description="Always there, without it.")] = None

    @property
    def cores(self) -> float:
        """Share of a host core of each device: its own or its profile's."""
        return self.cpus if self.cpus is not None else DEVICES[self.profile].cpus


class ToleranceSpec(Strict):
    """How far a measured link or quota may be off before the run is invalid."""

    rate: Annotated[ToleranceRatio, Field(description="5 % by default.")] = 0.05
    delay: Annotated[ToleranceRatio, Field(description="5 % by default.")] = 0.05
    delay_floor: Annotated[
        Delay, Field(description="No delay has to be closer than this; 2 ms by default.")
    ] = 0.002
    cpu: Annotated[ToleranceRatio, Field(description="10 % by default.")] = 0.10


class Network(Strict):
    """The data network."""

    congestion: Annotated[
        Literal["bbr", "cubic", "reno"],
        Field(description="TCP congestion control of every device and of the broker, pinned for the run."),
    ] = "cubic"
    backend: Annotated[
        str,
        one_of(CHOICES, "link backend"),
        Field(
            description="Who shapes links: the best that works here, or this one; none marks the run unshaped.",
            json_schema_extra=enum_of(CHOICES),
        ),
    ] = "auto"
