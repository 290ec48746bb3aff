"""Faults of a device's link."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field

from topology.fields import Wait
from topology.plan import FaultParams, Link
from topology.schema.base import device_name
from topology.schema.devices import DeviceGroup, LinkSpec
from topology.schema.faults.targets import FaultSpec

Direction = Literal["both", "up", "down"]


class Partition(FaultSpec):
    """Nothing passes between device and broker, both ways or one."""

    direction: Annotated[Direction, Field(description="Which way is cut, seen from the device.")] = "both"

    def params(self, targets: Iterable[str], devices: Mapping[str, DeviceGroup]) -> FaultParams:
        return FaultParams(direction=self.direction)


class Flap(Partition):
    """The link is cut for one half of each period and whole for the other."""

    period: Annotated[Wait, Field(description="Of one cut and one mend.", examples=["4 s"])] = 4.0

    def params(self, targets: Iterable[str], devices: Mapping[str, DeviceGroup]) -> FaultParams:
        return FaultParams(direction=self.direction, period_s=self.period)


class LinkChange(FaultSpec):
    """Another link: a profile's name, or numbers that replace those the device has; healing puts its own back."""

    link: LinkSpec

    def params(self, targets: Iterable[str], devices: Mapping[str, DeviceGroup]) -> FaultParams:
        hit = set(targets)
        return FaultParams(
            links={
                device_name(group, number): self._changed(spec.link, device_name(group, number))
                for group, spec in devices.items()
                for number in range(1, spec.count + 1)
                if device_name(group, number) in hit
            }
        )

    def _changed(self, before: LinkSpec, seed: str) -> Link:
        """A profile says everything; without one, what is not written stays as it was."""
        from topology.links import overlay, resolve_link  # which reads this package: not before it is whole

        return resolve_link(self.link if self.link.profile else overlay(before, self.link), seed)
