"""What compression did on each device, and what `auto` chose."""

from __future__ import annotations

from history import units
from history.compression import DeviceCompression
from history.report.markup import Markup
from history.report.tables import table
from history.summary import Summary

CHOICES_MAX = 100  # rows: the last ones of every device, in turn; all of them are in summary.json


def devices(summary: Summary) -> Markup:
    rows = [
        (
            device.name,
            f"{device.updates}",
            units.size(device.update_bytes),
            units.NOT_RECORDED if device.ratio is None else f"{units.plain(device.ratio, 3)} ×",
            units.plain(device.residual_norm, 3),
            units.plain(device.residual_norm_max, 3),
        )
        for device in summary.compression
    ]
    head = ["device", "#updates", "#an update", "#fewer than float32", "#residual norm, last", "#largest"]
    return table("Compression per device", head, rows, "The plan has no device.")


def choices(summary: Summary) -> Markup | None:
    """With `compression: auto`: share and bits of the last tasks, each with its reason."""
    chosen = [device for device in summary.compression if any(task.reason for task in device.tasks)]
    if not chosen:
        return None
    each = max(1, CHOICES_MAX // len(chosen))
    rows = [row for device in chosen for row in _choices(device, each)]
    head = ["device", "task", "#share", "#bits", "#uplink", "#sent", "~because"]
    return table("What auto chose", head, rows, "Nothing was chosen.")


def _choices(device: DeviceCompression, each: int) -> list[tuple[str, ...]]:
    return [
        (
            device.name,
            task.task,
            units.percent(task.share, 2),
            f"{task.bits or units.DASH}",
            units.rate(task.rate_bit_s),
            units.size(task.bytes) if task.bytes else units.DASH,
            task.reason,
        )
        for task in [task for task in device.tasks if task.reason][-each:]
    ]
