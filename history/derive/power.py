"""Batteries and availability: what hostd measured and did."""

from __future__ import annotations

from history.derive.host import HANDLERS
from history.events import Event
from history.fields import flag, number, text
from history.record import Lapse, Record

CHARGES_MAX = 100_000  # of one device: a sample a second for a day


@HANDLERS.on("power_sample")
def power_sample(record: Record, event: Event) -> None:
    device, charge = record.devices.get(text(event, "device")), number(event, "charge")
    if device is not None and charge is not None and len(device.charges) < CHARGES_MAX:
        device.charges.append((event.mono_s, charge))


@HANDLERS.on("power_off")
def power_off(record: Record, event: Event) -> None:
    device = record.devices.get(text(event, "device"))
    if device is not None and flag(event, "ok"):
        device.power_offs.append((event.mono_s, text(event, "effect"), text(event, "reason")))
    _not_done(record, event)


@HANDLERS.on("power_on")
def power_on(record: Record, event: Event) -> None:
    _not_done(record, event)


def _not_done(record: Record, event: Event) -> None:
    """A device that should have gone, or come back, and did not: the availability asked for was not emulated."""
    if flag(event, "ok") is False:
        wanted = f"{event.event.removeprefix('power_')} ({text(event, 'effect')}, {text(event, 'reason')})"
        lapse = Lapse(
            "power", text(event, "device"), wanted, "", text(event, "detail"), event.mono_s, event.node
        )
        record.keep_lapse(lapse)
