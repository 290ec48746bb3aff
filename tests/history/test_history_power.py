"""Batteries, availability and a busy host, as the record and the report tell of them."""

from __future__ import annotations

import synthetic_run as run
from msgspec.structs import replace

from history.derive import derive
from history.report import render
from history.summarize import summarize
from topology.plan.power import BatteryPlan


def powered() -> run.Script:
    script = run.whole_run()
    first, *others = script.plan.devices
    script.plan = replace(script.plan, devices=(replace(first, battery=BatteryPlan(capacity_j=100)), *others))
    at = 20.0
    for step, charge in enumerate((0.5, 0.2, 0.04, 0.3)):
        script.hostd(at + step, "power_sample", device=first.name, charge=charge, charge_j=charge * 100)
    script.hostd(
        at + 2.5, "power_off", device=first.name, effect="stop", reason="battery", ok=True, detail=""
    )
    return script


def test_charges_and_absences_are_summed_up_and_shown() -> None:
    script = powered()
    record = derive(script.history(), script.plan)
    summary = summarize(record)
    with_battery = [device for device in summary.devices if device.power is not None]
    assert [device.name for device in with_battery] == [script.plan.devices[0].name]
    power = with_battery[0].power
    assert power is not None
    assert (power.charge_first, power.charge_min, power.charge_last) == (0.5, 0.04, 0.3)
    assert power.offs == {"battery": 1}
    assert "Batteries and availability" in render(record, summary)


def test_a_device_that_could_not_be_taken_away_is_a_lapse() -> None:
    script, name = powered(), run.whole_run().plan.devices[0].name
    script.hostd(30.0, "power_off", device=name, effect="stop", reason="battery", ok=False, detail="busy")
    lapses = [lapse for lapse in derive(script.history(), script.plan).lapses if lapse.what == "power"]
    assert [(lapse.node, lapse.detail) for lapse in lapses] == [(name, "busy")]


def test_waiting_for_a_busy_host_is_a_lapse_above_a_twentieth() -> None:
    for waited_s, expected in ((0.4, []), (0.6, ["run_delay"])):
        script, name = run.whole_run(), run.whole_run().plan.devices[0].name
        script.plan = run.make_plan()
        quiet = [line for line in script.lines if not _samples(line, name)]
        script.lines = quiet
        for at, delay in ((0.0, 0.0), (10.0, waited_s)):
            script.hostd(20 + at, "cpu_sample", device=name, usage_s=at, run_delay_s=delay)
        record = derive(script.history(), script.plan)
        assert [lapse.what for lapse in record.lapses if lapse.node == name] == expected


def _samples(line: object, name: str) -> bool:
    fields = getattr(line, "fields", {})
    return getattr(line, "event", "") == "cpu_sample" and fields.get("device") == name
