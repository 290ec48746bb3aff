"""The tables of the report. A cell is text or markup; numbers stand to the right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from history import units
from history.layers import LAYERS
from history.record import Record, VersionRecord
from history.report.markup import Child, Markup, join, tag
from history.summary import DeviceSummary, Direction, Quantities, Summary

_CLASSES = {"#": "n", "~": "prose"}
ROWS_MAX = 400  # of one table; what comes after is in run.sqlite and summary.json


def mark(ok: bool | None, good: str, bad: str, unknown: str = units.NOT_RECORDED) -> Markup:
    """A sign, a colour and a word: none of them alone carries the meaning."""
    if ok is None:
        return tag("span", unknown, class_="unsure")
    return tag("span", f"✓ {good}" if ok else f"✗ {bad}", class_="ok" if ok else "bad")


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Child]], empty: str) -> Markup:
    """Columns whose head begins with `#` are numbers, with `~` prose that may be broken into lines."""
    listed = list(rows)
    if not listed:
        return tag("p", empty, class_="empty")
    classes = [_CLASSES.get(name[:1]) for name in head]
    heads = [
        tag("th", name.lstrip("#~"), scope="col", class_=c) for name, c in zip(head, classes, strict=True)
    ]
    body = [
        tag("tr", [tag("td", cell, class_=c) for cell, c in zip(row, classes, strict=True)])
        for row in listed[:ROWS_MAX]
    ]
    left = len(listed) - ROWS_MAX
    note = tag("p", f"{left} more rows are in run.sqlite.", class_="note") if left > 0 else None
    inner = tag("table", tag("caption", caption), tag("thead", tag("tr", heads)), tag("tbody", body))
    return join(tag("div", inner, class_="scroll", tabindex=0), note)


def expectations(summary: Summary) -> Markup:
    rows = [
        (
            e.metric.replace("_", " "),
            f"{e.op} {e.value:g}",
            units.plain(e.observed),
            mark(e.held, "held", "not held", "✗ unknown"),
        )
        for e in summary.expectations
    ]
    return table(
        "Expectations", ["metric", "#expected", "#observed", "verdict"], rows, "The topology expects nothing."
    )


def checks(summary: Summary) -> Markup:
    outcomes = {"pass": True, "fail": False, "unknown": None}
    rows = [(c.title, mark(outcomes[c.outcome], "pass", "fail", "unknown"), c.detail) for c in summary.checks]
    return table("Checks on the history", ["~question", "answer", "~because"], rows, "No check was run.")


def _bar(value: float, largest: float) -> Markup:
    share = 100 * value / largest if largest > 0 else 0.0
    return tag("span", tag("span", style=f"width:{share:.1f}%"), class_="bar")


def traffic(summary: Summary) -> Markup:
    """Bytes per device, with bars on one scale per column."""
    up = max((d.uplink_bytes for d in summary.devices), default=0)
    down = max((d.downlink_bytes for d in summary.devices), default=0)
    rows = [
        (
            d.name,
            f"{d.updates_merged}",
            f"{d.updates_discarded}",
            join(_bar(d.uplink_bytes, up), units.size(d.uplink_bytes)),
            units.size(d.uplink_bytes_sent),
            join(_bar(d.downlink_bytes, down), units.size(d.downlink_bytes)),
            units.seconds(d.offline_s) if d.offline_s else units.DASH,
        )
        for d in summary.devices
    ]
    head = [
        "device",
        "#merged",
        "#discarded",
        "up",
        "#up, says the device",
        "down, says the device",
        "#offline",
    ]
    return table("Updates and bytes per device", head, rows, "The plan has no device.")


def layers(summary: Summary) -> Markup:
    """Bytes at four layers, in total and per device."""
    head = ["device", *(f"#{way} {layer}" for way in ("up", "down") for layer in LAYERS), "wire counted by"]
    named = [("all", summary.bytes), *((device.name, device.bytes) for device in summary.devices)]
    rows = [
        (
            name,
            *(units.size(getattr(way, layer)) for way in (found.up, found.down) for layer in LAYERS),
            found.wire_source or units.DASH,
        )
        for name, found in named
        if found is not None
    ]
    return table("Bytes at four layers", head, rows, "Nobody counted them.")


def links(summary: Summary) -> Markup:
    rows = [row for device in summary.devices for row in _link_rows(device)]
    head = ["device", "link", ""]
    head += [f"#rate {part}" for part in ("requested", "effective", "error")]
    head += [f"#delay {part}" for part in ("requested", "effective", "error")]
    head += ["#jitter", "#loss", "verified"]
    return table("Links: requested, effective, error", head, rows, "The plan has no device.")


def _link_rows(device: DeviceSummary) -> list[Sequence[Child]]:
    ways = (("up", device.link.up), ("down", device.link.down))
    return [
        (
            device.name if way == "up" else "",
            device.link.name if way == "up" else "",
            way,
            *_direction(direction),
        )
        for way, direction in ways
    ]


def _direction(direction: Direction) -> Sequence[Child]:
    wanted, got, off = (
        direction.requested,
        direction.effective or Quantities(),
        direction.error or Quantities(),
    )
    measured = direction.effective is not None
    return (
        units.rate(wanted.rate_bit_s),
        units.rate(got.rate_bit_s) if got.rate_bit_s is not None else _absent(measured),
        units.signed_percent(off.rate_bit_s),
        units.milliseconds(wanted.delay_s),
        units.milliseconds(got.delay_s) if got.delay_s is not None else _absent(measured),
        units.signed_milliseconds(off.delay_s),
        _pair(wanted.jitter_s, got.jitter_s, 1000, "ms"),
        _pair(wanted.loss, got.loss, 100, "%"),
        mark(direction.ok, "held", "off"),
    )


def _absent(measured: bool) -> str:
    return units.DASH if measured else units.NOT_RECORDED


def _pair(wanted: float | None, got: float | None, factor: float, unit: str) -> str:
    """Requested → effective, in one cell."""
    if not wanted and not got:
        return units.DASH
    left = units.DASH if wanted is None else units.plain(wanted * factor, 3)
    right = "" if got is None else f" → {units.plain(got * factor, 3)}"
    return f"{left}{right} {unit}"


def cpus(summary: Summary) -> Markup:
    rows = [
        (
            d.name,
            d.profile,
            units.plain(d.cpu_requested, 3),
            units.plain(d.cpu_effective, 3),
            units.signed_percent(d.cpu_error),
            mark(d.cpu_ok, "held", "off"),
            units.percent(d.throttled_share, 0),
            units.percent(d.run_delay_share) if d.run_delay_share is not None else units.DASH,
            f"{units.plain(d.peak_rss_mb)} MB" if d.peak_rss_mb is not None else units.NOT_RECORDED,
            f"{d.memory_limit_mb:g} MB",
        )
        for d in summary.devices
    ]
    head = ["device", "profile", "#cores requested", "#effective", "#error", "verified", "#periods throttled"]
    head += ["#host too busy", "#peak memory", "#limit"]
    return table("CPU quotas and memory", head, rows, "The plan has no device.")


def power(summary: Summary) -> Markup:
    """Only devices with a battery, or with hours of their own."""
    rows = [
        (
            d.name,
            units.percent(d.power.charge_first, 0),
            units.percent(d.power.charge_min, 0),
            units.percent(d.power.charge_last, 0),
            ", ".join(f"{reason} {count} ×" for reason, count in sorted(d.power.offs.items())) or units.DASH,
        )
        for d in summary.devices
        if d.power is not None
    ]
    head = ["device", "#charge at first", "#at least", "#at last", "~went away"]
    return table("Batteries and availability", head, rows, "Every device was on mains and always there.")


def faults(summary: Summary) -> Markup:
    rows = [
        (
            f.id,
            f.kind,
            ", ".join(f.targets),
            f.trigger or "by hand",
            units.seconds(f.at_s) if f.applied else mark(False, "", "never applied"),
            units.seconds(f.lateness_s) if f.applied else units.DASH,
            mark(f.verified, "took effect", "did not take"),
            units.seconds(f.lasted_s) if f.healed else mark(None, "", "", "not healed"),
            mark(f.overlapped, "yes", "no", units.DASH),
            f.detail or units.DASH,
        )
        for f in summary.faults
    ]
    head = ["fault", "kind", "~targets", "~trigger", "#applied at", "#lateness", "verified", "#healed after"]
    head += ["met an open task", "~detail"]
    return table("Faults", head, rows, "No fault was planned, and none was recorded.")


def lapses(summary: Summary) -> Markup:
    rows = [
        (
            units.seconds(lapse.at_s) if lapse.at_s is not None else units.DASH,
            lapse.what.replace("_", " "),
            lapse.node,
            lapse.requested,
            lapse.effective,
            lapse.detail,
        )
        for lapse in summary.lapses
    ]
    head = ["#at", "what", "node", "~requested", "~effective", "~detail"]
    return table(
        "Lapses: limits that were not held", head, rows, "None: every limit that is watched was held."
    )


def _staleness(version: VersionRecord) -> str:
    """Of the updates that a version has: how many versions ago they were begun."""
    ages = [u.staleness for u in version.updates if u.staleness is not None]
    return f"{sum(ages) / len(ages):.1f}, at most {max(ages)}" if any(ages) else units.DASH


def rounds(record: Record, summary: Summary) -> Markup:
    by_version = {point.version: point for point in summary.accuracy}
    received: dict[int | None, int] = {}
    for task in record.received:
        received[task.round] = received.get(task.round, 0) + task.payload_bytes
    stale = {v.version: _staleness(v) for v in record.versions}
    rows = []
    for number in sorted(record.rounds):
        r = record.rounds[number]
        point = by_version.get(r.version) if r.version is not None else None
        took = r.closed_at - r.opened_at if r.closed_at is not None and r.opened_at is not None else None
        rows.append(
            (
                str(number),
                units.seconds(record.since(r.opened_at)) if r.opened_at is not None else units.NOT_RECORDED,
                units.seconds(took),
                f"{r.merged} of {r.target or len(r.cohort)}" if r.merged is not None else units.NOT_RECORDED,
                stale.get(-1 if r.version is None else r.version, units.DASH),
                ", ".join(r.missing) or units.DASH,
                r.reason or (units.DASH if r.closed_at is not None else "not closed"),
                units.size(received.get(number, 0)),
                units.percent(point.accuracy) if point and point.accuracy is not None else units.DASH,
                units.plain(point.loss) if point else units.NOT_RECORDED,
            )
        )
    head = [
        "#round",
        "#opened at",
        "#took",
        "#merged",
        "#staleness",
        "missing",
        "closed because",
        "#up",
        "#accuracy",
        "#loss",
    ]
    return table("Rounds", head, rows, "No round was opened.")
