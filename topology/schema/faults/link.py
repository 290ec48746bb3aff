"""Faults of a device's link."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field

from topology.fields import Loss, Wait
from topology.plan import FaultParams, Link
from topology.plan.faults import FLAP_S_MIN
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

    period: Annotated[
        Wait, Field(ge=FLAP_S_MIN, description="Of one cut and one mend.", examples=["4 s"])
    ] = 4.0

    def params(self, targets: Iterable[str], devices: Mapping[str, DeviceGroup]) -> FaultParams:
        return FaultParams(direction=self.direction, period_s=self.period)


class OtherLink(FaultSpec):
    """What puts another link in force: `changed` says which, from the device's own."""

    def params(self, targets: Iterable[str], devices: Mapping[str, DeviceGroup]) -> FaultParams:
        hit = set(targets)
        return FaultParams(
            links={
                device_name(group, number): self.changed(spec.link, device_name(group, number))
                for group, spec in devices.items()
                for number in range(1, spec.count + 1)
                if device_name(group, number) in hit
            }
        )

    def changed(self, before: LinkSpec, seed: str) -> Link:
        raise NotImplementedError


class LinkChange(OtherLink):
    """Another link: a profile's name, or numbers that replace those the device has; healing puts its own back."""

    link: LinkSpec

    def changed(self, before: LinkSpec, seed: str) -> Link:
        """A profile says everything; without one, what is not written stays as it was."""
        from topology.links import overlay, resolve_link  # which reads this package: not before it is whole

        return resolve_link(self.link if self.link.profile else overlay(before, self.link), seed)


class PacketCorruption(OtherLink):
    """A share of the packets has one bit flipped, both ways; TCP finds most of them and sends again."""

    share: Annotated[Loss, Field(gt=0, description="Of the packets, per direction.", examples=["2 %"])] = 0.02

    def changed(self, before: LinkSpec, seed: str) -> Link:
        from topology.links import overlay, resolve_link

        corrupt = LinkSpec.model_construct(_fields_set={"corrupt"}, corrupt=self.share)
        return resolve_link(overlay(before, corrupt), seed)
