"""Faults of a whole container: it dies, stops, hangs, or runs out of memory or CPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from topology.plan import FaultParams
from topology.schema.devices import DeviceGroup
from topology.schema.faults.targets import FaultSpec

_RESTARTABLE = frozenset({"broker", "coordinator"})


class Kill(FaultSpec):
    """SIGKILL; healing starts it again in a fresh namespace. hostd comes back by itself, within a second."""

    services: ClassVar[frozenset[str]] = _RESTARTABLE | {"hostd"}


class Stop(FaultSpec):
    """SIGTERM, then SIGKILL after ten seconds; healing starts it again in a fresh namespace."""

    services: ClassVar[frozenset[str]] = _RESTARTABLE


class Restart(FaultSpec):
    """Stopped and started at once."""

    services: ClassVar[frozenset[str]] = _RESTARTABLE


class Pause(FaultSpec):
    """Frozen with its connections open, as a device that hangs; healing thaws it."""

    services: ClassVar[frozenset[str]] = _RESTARTABLE


class OutOfMemory(FaultSpec):
    """Something on the device takes memory until the kernel kills the agent; healing starts it again."""


class CpuSlowdown(FaultSpec):
    """The quota times `factor`, live."""

    factor: Annotated[float, Field(gt=0, lt=1, description="What is left of the quota.", examples=[0.25])] = (
        0.25
    )

    def params(self, targets: Iterable[str], devices: Mapping[str, DeviceGroup]) -> FaultParams:
        return FaultParams(cpus_factor=self.factor)
