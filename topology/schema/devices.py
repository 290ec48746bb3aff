"""Devices, their links, the network between them, and how exact they have to be."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from topology.fields import Delay, Loss, Queue, Rate, Size, Strict, ToleranceRatio
from topology.profiles import DEVICES, LINKS
from topology.schema.base import DEVICES_MAX, enum_of, one_of
from topology.schema.power import Availability, Battery


class LinkSpec(Strict):
    """A link: a profile's name, or its numbers, or a profile with some numbers of one's own.

    `delay` is one-way and holds in each direction, like `jitter`, `loss` and `queue`. Without a rate it is
    unlimited.
    """

    profile: Annotated[
        str | None,
        one_of(LINKS, "link profile"),
        Field(description="Where the numbers left out come from.", json_schema_extra=enum_of(LINKS)),
    ] = None
    up: Annotated[Rate | None, Field(description="From the device.")] = None
    down: Annotated[Rate | None, Field(description="To the device.")] = None
    delay: Annotated[Delay | None, Field(description="One-way, per direction.")] = None
    jitter: Annotated[
        Delay | None, Field(description="Standard deviation of the delay; packets stay in order.")
    ] = None
    loss: Annotated[Loss | None, Field(description="Share of packets dropped, per direction.")] = None
    queue: Annotated[Queue | None, Field(description="What may wait: time at the link's rate, or bytes.")] = (
        None
    )

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"profile": value} if isinstance(value, str) else value


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
        Literal["bbr", "cubic", "reno"] | None,
        Field(description="TCP congestion control; the kernel's by default."),
    ] = None
