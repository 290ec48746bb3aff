"""Was the emulation what it claimed to be? Every shaped link and every quota verified, or the run is not
valid.
"""

from __future__ import annotations

from collections.abc import Callable

from history import units
from history.fields import flag, mapping, number
from history.record import DeviceRecord, LinkRecord, Record


def problems(record: Record) -> list[str]:
    """In the docker runtime, everything that was not verified; other runtimes claim nothing and have no
    problems.
    """
    if record.plan.runtime != "docker":
        return []
    if not record.hostd_heard:
        return ["hostd left no history: no link and no quota was verified"]
    verified = [text for device in record.devices.values() for text in _device(device)]
    return verified + _lapsed(record)


# What hostd found out while the run went on, after everything had been measured once.
HOSTD = "hostd"
LAPSED = {
    "hostd_absent": "hostd was away: delay, jitter and loss were not in force",
    "link_lost": "a link's rules were gone",
    "link_readback": "a link was not what was written",
    "queue_overflow": "a delay queue overflowed",
    "cpu_readback": "the cgroup had another quota",
    "memory_readback": "the cgroup had another memory limit",
    "limit_unreadable": "a limit could not be read back",
    "not_measured": "a link that came back was not measured",
    "not_applied": "a link that came back was not shaped",
}


def _lapsed(record: Record) -> list[str]:
    """Lapses of the emulation itself before the run was over; afterwards the links are taken down on purpose.

    A gap that a fault of the plan has made by killing hostd is what was asked for; it stays on record as a lapse.
    """
    end, asked = record.run_finished_at, _hostd_killed_at(record)
    return [
        f"{lapse.node}: {LAPSED[lapse.what]} ({lapse.detail})"
        for lapse in record.lapses
        if lapse.what in LAPSED
        and lapse.source == HOSTD
        and (end is None or lapse.at is None or lapse.at <= end)
        and not (lapse.what == "hostd_absent" and any(_soon_after(lapse.at, at) for at in asked))
    ]


HOSTD_BACK_S = 30.0  # Docker starts it at once; it waits for a busy engine at most


def _hostd_killed_at(record: Record) -> list[float]:
    hit = (fault for fault in record.faults.values() if HOSTD in fault.targets)
    return [fault.applied_at for fault in hit if fault.applied_at is not None]


def _soon_after(at: float | None, since: float) -> bool:
    return at is not None and since <= at <= since + HOSTD_BACK_S


def held(record: Record) -> bool | None:
    """None where nothing was claimed."""
    return None if record.plan.runtime != "docker" else not problems(record)


def _device(device: DeviceRecord) -> list[str]:
    found = _links(device) if device.plan.link.up.shaped or device.plan.link.down.shaped else []
    cpu = device.cpu
    if cpu is None or cpu.ok is None:
        found.append(f"{device.name}: CPU quota was not verified")
    elif not cpu.ok:
        found.append(
            f"{device.name}: CPU {_plain(cpu.requested)} requested, {_plain(cpu.effective)} effective"
        )
    return found


def _links(device: DeviceRecord) -> list[str]:
    measured = {link.boot: link for link in device.links if link.ok is not None}
    if not measured:
        what = "applied but never measured" if device.links else "never applied"
        return [f"{device.name}: link was {what}"]
    return [text for link in measured.values() if not link.ok for text in _off(device.name, link)]


_SHOWN: dict[str, Callable[[float | None], str]] = {
    "rate_bit_s": lambda value: "unlimited" if value is None else units.rate(value),
    "delay_s": units.milliseconds,
    "jitter_s": units.milliseconds,
    "loss": units.percent,
}


def _off(name: str, link: LinkRecord) -> list[str]:
    """What exactly was off, per direction: requested and effective of everything that was measured."""
    found = []
    for way, direction in link.directions.items():
        if flag(direction, "ok") is not False:
            continue
        requested, effective = mapping(direction, "requested"), mapping(direction, "effective")
        parts = [
            f"{key.split('_')[0]} {show(number(requested, key))} requested, {show(measured)} effective"
            for key, show in _SHOWN.items()
            if (measured := number(effective, key)) is not None
        ]
        found.append(f"{name}: link {way} out of tolerance ({'; '.join(parts) or 'no figures'})")
    return found or [f"{name}: link out of tolerance"]


def _plain(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.4g}"
