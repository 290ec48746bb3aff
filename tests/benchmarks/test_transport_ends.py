"""The transport benchmark on a small update: both ends still fit the services they are made of."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.netns, pytest.mark.slow]


def test_a_small_update_arrives_over_the_bad_link(monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(Path(__file__).parents[2])
    monkeypatch.syspath_prepend(root)
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.setenv("EDGERIG_BENCH_PARAMETERS", "50000")
    transport = importlib.import_module("benchmarks.transport")
    lacking = transport.missing()
    if lacking:
        pytest.skip(f"the benchmark cannot run here: {lacking}")
    fleet = [transport.Device("d0", "bbr", bloated=False), transport.Device("d1", "cubic", bloated=True)]
    found = transport.measure(fleet)
    for device in fleet:
        row = transport.row(device, found[device.name])
        assert row["bytes"] >= 200_000
        # A reset throws away what the socket had taken and not yet sent, so MQTT may count more than the wire.
        assert row["mqtt_sent"] > row["bytes"]
        assert row["wire_sent"] > row["bytes"]
        assert row["disconnects"] >= 1
        assert 1.0 < row["ratio"] < 20.0
    assert sys.modules["benchmarks.transport_ends"].TASK
