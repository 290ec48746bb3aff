"""Batteries and availability on a clock that tests turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulation.power.battery import Battery, Meter
from emulation.power.core import Off, On, PowerCore, Reading
from emulation.power.keeper import interface_bytes
from history.events import Event
from topology.availability import within
from topology.plan import DevicePlan, Link, Shape
from topology.plan.power import AvailabilityPlan, BatteryPlan

LINK = Link(name="custom", up=Shape(), down=Shape())


def device(name: str = "a", **power: Any) -> DevicePlan:
    return DevicePlan(
        name=name, group="g", index=0, profile="phone", cpus=0.2, memory_bytes=1, link=LINK, **power
    )


def began(at: float = 100.0) -> Event:
    return Event(
        node="coordinator", boot="b", seq=0, mono_s=at, wall_s=0.0, event="round_opened", fields={"round": 1}
    )


def core_of(*devices: DevicePlan, charges: dict[str, float] | None = None) -> PowerCore:
    core = PowerCore(devices, charges)
    core.handle(began())
    return core


def test_what_is_computed_and_sent_drains_the_battery_and_an_empty_device_is_stopped() -> None:
    plan = BatteryPlan(capacity_j=100, compute_w=4, byte_j=1e-6, idle_w=0.5, stop_below=0.05)
    core = core_of(device(battery=plan))
    core.sample("a", Reading(cpu_s=3.0, link_bytes=1e6))  # used before it was looked at: not counted
    assert core.charge_j("a") == 100
    core.sample("a", Reading(cpu_s=13.0, link_bytes=6e6))
    assert core.charge_j("a") == pytest.approx(100 - 40 - 5)
    assert core.tick(110.0) == []
    assert core.charge_j("a") == pytest.approx(50)  # ten seconds of idling
    core.sample("a", Reading(cpu_s=25.0, link_bytes=6e6))
    assert core.tick(110.0) == [Off("a", "stop", "battery")]
    assert core.tick(111.0) == []


def test_an_empty_device_charges_while_it_is_off_and_comes_back_above_the_threshold() -> None:
    plan = BatteryPlan(
        capacity_j=100, charge=0.06, idle_w=1, charger_w=2, plugged=((10.0, 60.0),), start_above=0.2
    )
    core = core_of(device(battery=plan))
    assert core.tick(102.0) == [Off("a", "stop", "battery")]
    assert core.tick(109.0) == []  # off: nothing drains, and the charger is not there yet
    assert core.charge_j("a") == pytest.approx(4)
    assert core.tick(110.0) == []
    assert core.tick(116.0) == []
    assert core.tick(117.0) == [On("a", "stop", "battery")]


def test_nothing_happens_before_the_first_round() -> None:
    core = PowerCore([device(availability=AvailabilityPlan(windows=((5.0, 6.0),)))])
    assert core.tick(1e6) == []
    core.handle(began(1e6))
    assert core.tick(1e6) == [Off("a", "disconnect", "availability")]


def test_availability_cuts_the_link_outside_its_windows_again_every_period() -> None:
    plan = AvailabilityPlan(windows=((0.0, 10.0),), every_s=30.0, effect="disconnect")
    core = core_of(device(availability=plan))
    seen = {t: core.tick(100.0 + t) for t in range(0, 62, 2)}
    assert {t: actions for t, actions in seen.items() if actions} == {
        10: [Off("a", "disconnect", "availability")],
        30: [On("a", "disconnect", "availability")],
        40: [Off("a", "disconnect", "availability")],
        60: [On("a", "disconnect", "availability")],
    }


def test_a_battery_that_empties_while_the_link_is_cut_changes_the_effect() -> None:
    core = core_of(
        device(
            battery=BatteryPlan(capacity_j=10, charge=0.5, idle_w=0.1),
            availability=AvailabilityPlan(windows=((50.0, 60.0),)),
        )
    )
    assert core.tick(101.0) == [Off("a", "disconnect", "availability")]
    assert core.tick(149.0) == [On("a", "disconnect", "availability"), Off("a", "stop", "battery")]
    assert core.finish() == []


def test_the_end_of_a_run_mends_what_is_cut() -> None:
    core = core_of(device(availability=AvailabilityPlan(windows=((50.0, 60.0),))))
    core.tick(101.0)
    assert core.finish() == [On("a", "disconnect", "availability")]
    assert core.tick(200.0) == []


def test_a_hostd_that_takes_over_goes_on_with_the_charge_on_record() -> None:
    core = core_of(device(battery=BatteryPlan(capacity_j=100)), charges={"a": 42.0})
    assert core.charge_j("a") == 42.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_a_meter_adds_up_whatever_restarts(totals: list[float]) -> None:
    meter = Meter()
    taken = [meter.take(total) for total in totals]
    assert taken[0] == 0.0
    for before, after, step in zip(totals, totals[1:], taken[1:], strict=False):
        assert step == (after - before if after >= before else after)


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0, 1e8), st.floats(0.1, 100), st.booleans()), max_size=40)
)
def test_the_charge_stays_between_empty_and_full(steps: list[tuple[float, float, float, bool]]) -> None:
    battery = Battery(
        BatteryPlan(
            capacity_j=200,
            idle_w=0.3,
            compute_w=4,
            byte_j=2e-6,
            charger_w=5,
            plugged=((0.0, 20.0),),
            plugged_every_s=60,
        )
    )
    now = 0.0
    for cpu_s, link_bytes, wait_s, on in steps:
        now += wait_s
        battery.drain(cpu_s, link_bytes)
        battery.pass_time(now, on)
        assert 0 <= battery.charge_j <= 200
        assert battery.empty or battery.share > 0.05


@given(st.floats(0, 1e5), st.floats(1, 1e4))
def test_windows_repeat(now: float, every: float) -> None:
    windows = ((0.0, every / 2),)
    assert within(windows, every, now) == (now % every < every / 2)


def test_bytes_of_all_interfaces_but_the_loopback() -> None:
    lines = [
        "Inter-|   Receive                                                |  Transmit",
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes",
        "    lo: 999 1 0 0 0 0 0 0 999 1 0 0 0 0 0 0",
        "  eth0: 100 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0",
    ]
    assert interface_bytes(lines) == 120


def test_the_agent_reads_what_hostd_writes(tmp_path: Path) -> None:
    from edge_agent.power import from_file
    from wire.messages import Power

    file = tmp_path / "a.power"
    assert from_file(file) is None
    file.write_bytes(msgspec.json.encode({"charge": 0.25, "plugged": False, "available": True}))
    assert from_file(file) == Power(charge=0.25, plugged=False)
    file.write_bytes(b"{half")
    assert from_file(file) is None


def test_a_real_device_asks_its_kernel(tmp_path: Path) -> None:
    from edge_agent.power import from_kernel
    from wire.messages import Power

    assert from_kernel(tmp_path / "none") is None
    for name, kind in (("ac", "Mains"), ("bat", "Battery")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "type").write_text(kind + "\n")
    (tmp_path / "bat" / "capacity").write_text("73\n")
    (tmp_path / "bat" / "status").write_text("Discharging\n")
    assert from_kernel(tmp_path) == Power(charge=0.73, plugged=False)
