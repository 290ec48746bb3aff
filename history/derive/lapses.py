"""Lapses: what producers recorded as such, and what shows only when their histories are held together."""

from __future__ import annotations

from history.derive.coordinator import HANDLERS as COORDINATOR_HANDLERS
from history.derive.host import HANDLERS as HOST_HANDLERS
from history.events import Event
from history.fields import integer, text
from history.record import LAPSES_MAX, Lapse, Record


def _shown(event: Event, key: str) -> str:
    return _plain(event.get(key))[:500]


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items() if item is not None)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


@COORDINATOR_HANDLERS.on("lapse")
@HOST_HANDLERS.on("lapse")
def lapse(record: Record, event: Event) -> None:
    record.keep_lapse(
        Lapse(
            what=text(event, "what"),
            node=text(event, "node") or event.node,
            requested=_shown(event, "requested"),
            effective=_shown(event, "effective"),
            detail=_shown(event, "detail"),
            at=event.mono_s,
            source=event.node,
        )
    )


@COORDINATOR_HANDLERS.on("broker_sample")
def broker_sample(record: Record, event: Event) -> None:
    """The broker's counters begin at 0 with it; one that moved means that something was thrown away in
    silence.
    """
    dropped = integer(event, "dropped")
    if dropped is None:
        return
    before = record.broker_dropped or 0
    if dropped > before:
        detail = f"the drop counter moved from {before} to {dropped}"
        record.keep_lapse(
            Lapse("broker_drops", "broker", "0", str(dropped), detail, event.mono_s, event.node)
        )
    record.broker_dropped = dropped


RUN_DELAY_SHARE_MAX = 0.05  # of a device's wall time; more and the device was slower than its quota says


def _host_too_busy(record: Record) -> None:
    """Devices that waited for a CPU although their quota would have let them run (emulation.run_delay)."""
    for device in record.devices.values():
        share = device.run_delay_share
        if share is not None and share > RUN_DELAY_SHARE_MAX:
            wanted, got = f"at most {RUN_DELAY_SHARE_MAX:.0%} of its time", f"{share:.1%}"
            detail = "it waited for a CPU of this host without its quota being the reason"
            record.keep_lapse(Lapse("run_delay", device.name, wanted, got, detail, None, "history"))


def add_lapses(record: Record) -> None:
    """Gaps in a history, devices that wrote what only others can know, hosts that were too busy."""
    _host_too_busy(record)
    for defect in record.defects:
        if defect.kind != "cut":
            what = "history_gap" if defect.kind == "gap" else f"history_{defect.kind}"
            effective = f"{defect.count} {'events' if defect.kind in ('gap', 'truncated') else 'lines'} lost"
            detail = defect.detail or f"{defect.count} lines could not be read"
            record.keep_lapse(
                Lapse(what, defect.node, "every event", effective, detail, defect.mono_s, "history")
            )
    _say_what_is_not_listed(record)
    if record.foreign_events:
        detail = f"{record.foreign_events} events of other roles were ignored"
        record.keep_lapse(
            Lapse("history_foreign", "", "0", str(record.foreign_events), detail, None, "history")
        )


def _say_what_is_not_listed(record: Record) -> None:
    for (what, source), count in list(record.lapse_counts.items()):
        if count > LAPSES_MAX:
            detail = f"{count} times {what}, of which the first {LAPSES_MAX} are listed"
            record.lapses.append(Lapse("lapses_not_listed", "", "", str(count), detail, None, source))
