"""Battery and availability: what may be written, and the windows it becomes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topology.availability import FOREVER_S, TraceError, diurnal, read_trace
from topology.compile import compile_topology
from topology.errors import TopologyErrors
from topology.host import Host
from topology.validate import load_topology, parse_topology

BASE = """
name: power
devices:
  phone:
    profile: phone
    count: 2
    link: 4g
    {power}
data: {{dataset: mnist-mini, samples_per_device: 500}}
model: mlp
training: {{rounds: 2}}
"""


def errors_of(power: str, **more: object) -> str:
    with pytest.raises(TopologyErrors) as found:
        parse_topology(BASE.format(power=power), **more)  # type: ignore[arg-type]
    return str(found.value)


def test_a_battery_becomes_joules_and_watts() -> None:
    battery = "battery: {capacity: 2 Wh, charge: 50 %, idle: 200 mW, per_megabyte: 2 J, "
    battery += "plugged: {power: 5 W, windows: [10 s - 1 min], every: 5 min}}"
    plan = compile_topology(parse_topology(BASE.format(power=battery)).topology, "power-1")
    found = plan.devices[0].battery
    assert found is not None
    assert (found.capacity_j, found.charge, found.idle_w, found.byte_j) == (7200, 0.5, 0.2, 2e-6)
    assert (found.plugged, found.plugged_every_s, found.charger_w) == (((10.0, 60.0),), 300.0, 5.0)


def test_the_period_of_the_quota_is_a_key() -> None:
    plan = compile_topology(parse_topology(BASE.format(power="cpu_period: 20 ms")).topology, "power-1")
    assert {device.cpu_period_us for device in plan.devices} == {20_000}
    assert "cpu_period" in errors_of("cpu_period: 100 us")
    assert "no less than 1 ms" in errors_of("cpus: 0.05\n    cpu_period: 10 ms")


@pytest.mark.parametrize(
    ("power", "says"),
    [
        ("battery: {capacity: 40}", "an energy needs a unit"),
        ("battery: {capacity: 40 W}", "not a unit of energy"),
        ("battery: {capacity: 40 J, charge: 1 %}", "off from the start"),
        ("battery: {capacity: 40 J, stop_below: 30 %, start_above: 20 %}", "on and off for ever"),
        ("availability: {kind: diurnal, day: 60 s}", "needs `share`"),
        ("availability: {kind: windows}", "needs `windows`"),
        ("availability: {kind: windows, windows: [5 s - 1 s]}", "ends before it begins"),
        ("availability: {kind: windows, windows: [1 s - 9 s], every: 5 s}", "after the period"),
        ("availability: {kind: windows, windows: [1 s - 2 s], share: 50 %}", "belongs to kind: diurnal"),
        ("availability: {kind: trace, file: nowhere.csv}", "there is no"),
    ],
)
def test_what_makes_no_sense_is_said(power: str, says: str) -> None:
    assert says in errors_of(power)


def test_the_process_runtime_refuses_by_name() -> None:
    host = Host(cores=8, memory_bytes=1 << 36)
    assert "does not emulate it" in errors_of("battery: {capacity: 40 J}", host=host, runtime="process")


@given(st.floats(1, 1e5), st.floats(0.01, 1), st.floats(0.001, 1), st.integers(0, 2**32))
def test_a_day_has_its_share_wherever_its_window_falls(
    day: float, share: float, spread: float, seed: int
) -> None:
    windows = diurnal(day, share, spread, random.Random(seed))
    assert sum(end - begin for begin, end in windows) == pytest.approx(share * day)
    assert all(0 <= begin <= end <= day * (1 + 1e-9) for begin, end in windows)


def test_devices_of_a_group_have_hours_of_their_own_and_keep_them() -> None:
    text = BASE.format(power="availability: {kind: diurnal, day: 60 s, share: 40 %}")
    plans = [compile_topology(parse_topology(text).topology, "power-1") for _ in range(2)]
    first, second = (device.availability for device in plans[0].devices)
    assert first is not None
    assert second is not None
    assert first.windows != second.windows
    assert [d.availability for d in plans[0].devices] == [d.availability for d in plans[1].devices]


def test_a_trace_is_read_beside_the_topology(tmp_path: Path) -> None:
    (tmp_path / "away.csv").write_text(
        "seconds,available,device\n# noon\n0,1,phone-1\n30,0,phone-1\n45,1,phone-1\n"
    )
    (tmp_path / "t.yaml").write_text(BASE.format(power="availability: {kind: trace, file: away.csv}"))
    plan = compile_topology(load_topology(tmp_path / "t.yaml").topology, "power-1")
    windows = [device.availability.windows for device in plan.devices if device.availability is not None]
    assert windows == [((0.0, 30.0), (45.0, FOREVER_S)), ((0.0, FOREVER_S),)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "has no lines"),
        ("1,2\n", ":1:"),
        ("x,1\n", "available 0 or 1"),
        ("5,1\n1,0\n", "times ascend"),
        ('5,1\n"' + "x" * 200_000, "no CSV"),
        ("-1,1\n", ":1:"),
    ],
)
def test_a_broken_trace_names_the_line(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(content)
    with pytest.raises(TraceError, match=says):
        read_trace(file)
