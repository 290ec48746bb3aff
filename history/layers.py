"""Bytes at four layers, per device and direction: what the same updates and versions are at each of them.

raw       as float32, nothing compressed
encoded   updates as they were made, model objects and graphs as they were fetched
mqtt      what went through the device's MQTT client: packets with their headers, resends, pings, acknowledgements
wire      what passed the device's network interface, TLS, TCP/IP and retransmissions included

`mqtt` and `wire` hold everything a device said and heard, not only updates. None means that nobody counted: there is no
history of the device or only a part of it was read, or (wire) nothing that could tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from history import accounts
from history.record import DeviceRecord, Record

Way = Literal["up", "down"]
LAYERS = ("raw", "encoded", "mqtt", "wire")


class Layers(Struct, frozen=True, kw_only=True):
    raw: int | None = None
    encoded: int | None = None
    mqtt: int | None = None
    wire: int | None = None


class BytesSummary(Struct, frozen=True, kw_only=True):
    """`wire_source`: the device's interface, `tcp_info` (loopback: reckoned from its connection), or empty."""

    up: Layers
    down: Layers
    wire_source: str = ""


def of_device(record: Record, device: DeviceRecord) -> BytesSummary:
    if device.name in record.unread:
        return BytesSummary(up=Layers(), down=Layers())
    return BytesSummary(
        up=_up(record, device),
        down=Layers(
            raw=device.graph_bytes + len(device.fetched_for) * record.parameters * 4
            if device.heard
            else None,
            encoded=device.downlink_bytes if device.heard else None,
            mqtt=_counted(device, "mqtt_received"),
            wire=_counted(device, "wire_received"),
        ),
        wire_source=device.wire_source,
    )


def _up(record: Record, device: DeviceRecord) -> Layers:
    """What the device says it made; and what arrived of a device whose history does not say so."""
    made = dict(device.encoded)
    for task in record.received:
        if task.agent == device.name and (task.id, task.sha256) not in made:
            made[task.id, task.sha256] = (task.bytes, accounts.float32_bytes(record, task))
    known = bool(made) or device.heard
    return Layers(
        raw=sum(raw for _, raw in made.values()) if known else None,
        encoded=sum(size for size, _ in made.values()) if known else None,
        mqtt=_counted(device, "mqtt_sent"),
        wire=_counted(device, "wire_sent"),
    )


def _counted(device: DeviceRecord, name: str) -> int | None:
    """Over all boots; None if one of them did not count."""
    found = [boot.get(name) for boot in device.traffic.values()]
    known = [value for value in found if value is not None]
    return sum(known) if known and len(known) == len(found) else None


def in_total(devices: Iterable[BytesSummary]) -> BytesSummary:
    """Sums of what is known of every device; a layer that one of them lacks has no sum."""
    every = list(devices)
    sources = sorted({one.wire_source for one in every} - {""})
    return BytesSummary(
        up=_sum([one.up for one in every]),
        down=_sum([one.down for one in every]),
        wire_source=", ".join(sources),
    )


def _sum(layers: list[Layers]) -> Layers:
    def total(name: str) -> int | None:
        found = [getattr(one, name) for one in layers]
        return None if not found or None in found else sum(found)

    return Layers(**{name: total(name) for name in LAYERS})


def total(record: Record) -> BytesSummary:
    return in_total(of_device(record, device) for device in record.devices.values())
