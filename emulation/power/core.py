"""Who is there, decided: batteries and availability in, `Off` and `On` out. Pure.

A device is off while its battery is empty (then it is always stopped: nothing runs without power), and away while its
availability says so (stopped or disconnected, as the topology asks). `handle` starts the clock at the first
`round_opened` of the coordinator's history, as faults do; before that everybody is there and nothing drains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from emulation.power.battery import Battery, Meter
from history.events import Event
from topology.availability import within
from topology.plan import DevicePlan
from topology.plan.power import AvailabilityPlan, Effect


@dataclass(frozen=True)
class Off:
    """Take the device away: `effect` says how, `reason` why (battery, availability)."""

    device: str
    effect: Effect
    reason: str


@dataclass(frozen=True)
class On:
    """Bring it back, by undoing `effect`."""

    device: str
    effect: Effect
    reason: str


@dataclass(frozen=True)
class Reading:
    """What a sample of a device shows: totals of its cgroup and its interface since its container started."""

    cpu_s: float
    link_bytes: float


@dataclass(frozen=True)
class PowerState:
    """What is known of a device's power now; `charge` is None for one on mains."""

    charge: float | None
    plugged: bool
    available: bool


@dataclass
class _Device:
    battery: Battery | None
    availability: AvailabilityPlan | None
    cpu: Meter = field(default_factory=Meter)
    link: Meter = field(default_factory=Meter)
    away: Off | None = None


class PowerCore:
    """`charges`: device → joules, of a hostd before this one."""

    def __init__(self, devices: Iterable[DevicePlan], charges: Mapping[str, float] | None = None) -> None:
        known = charges or {}
        self._devices = {
            d.name: _Device(
                Battery(d.battery, known.get(d.name)) if d.battery is not None else None, d.availability
            )
            for d in devices
            if d.battery is not None or d.availability is not None
        }
        self._began_s: float | None = None

    @property
    def devices(self) -> list[str]:
        return list(self._devices)

    def handle(self, event: Event) -> None:
        if event.event == "round_opened" and self._began_s is None:
            self._began_s = event.mono_s

    def sample(self, device: str, reading: Reading) -> None:
        """Totals that were read; what was used before the run began drains nothing."""
        found = self._devices.get(device)
        if found is None:
            return
        cpu_s, link_bytes = found.cpu.take(reading.cpu_s), found.link.take(reading.link_bytes)
        if found.battery is not None and self._began_s is not None:
            found.battery.drain(cpu_s, link_bytes)

    def tick(self, now: float) -> list[Off | On]:
        """What changes at `now` (the host's monotonic clock)."""
        if self._began_s is None:
            return []
        actions: list[Off | On] = []
        for name, device in self._devices.items():
            actions += self._tick(name, device, now - self._began_s)
        return actions

    def state(self, device: str, now: float) -> PowerState:
        found = self._devices[device]
        now_s = 0.0 if self._began_s is None else now - self._began_s
        battery = found.battery
        return PowerState(
            charge=None if battery is None else battery.share,
            plugged=battery is None or battery.plugged(now_s),
            available=found.away is None,
        )

    def charge_j(self, device: str) -> float | None:
        battery = self._devices[device].battery
        return None if battery is None else battery.charge_j

    def finish(self) -> list[On]:
        """The run is over: cut links are mended; stopped containers need no start for the end."""
        ended = [
            On(name, "disconnect", device.away.reason)
            for name, device in self._devices.items()
            if device.away is not None and device.away.effect == "disconnect"
        ]
        self._devices = {}
        return ended

    @staticmethod
    def _tick(name: str, device: _Device, now_s: float) -> list[Off | On]:
        if device.battery is not None:
            stopped = device.away is not None and device.away.effect == "stop"
            device.battery.pass_time(now_s, on=not stopped)
        wanted = _wanted(name, device, now_s)
        if wanted == device.away:
            return []
        before, device.away = device.away, wanted
        actions: list[Off | On] = []
        if before is not None and (wanted is None or wanted.effect != before.effect):
            actions.append(On(name, before.effect, before.reason))
        if wanted is not None and (before is None or wanted.effect != before.effect):
            actions.append(wanted)
        return actions


def _wanted(name: str, device: _Device, now_s: float) -> Off | None:
    if device.battery is not None and device.battery.empty:
        return Off(name, "stop", "battery")
    plan = device.availability
    if plan is not None and not within(plan.windows, plan.every_s, now_s):
        return Off(name, plan.effect, "availability")
    return None
