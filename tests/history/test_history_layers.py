"""Bytes at four layers: from the events of both sides to summary.json, the report and the expectations."""

from __future__ import annotations

import msgspec
import synthetic_run as run
from test_history_summary import record_of

from history.layers import LAYERS, BytesSummary, Layers, in_total
from history.report import tables
from history.summarize import summarize
from history.verdict import METRICS, judge
from topology.expectations import METRICS as NAMES
from topology.plan import Expectation


def test_every_layer_of_a_device_follows_from_what_both_sides_said() -> None:
    script = run.whole_run()
    summary = summarize(record_of(script))
    device = next(d for d in summary.devices if d.name == "pi4-1")
    assert device.bytes is not None
    made = [line.fields for line in script.lines if line.node == "pi4-1" and line.event == "encoded"]
    fetched = [line.fields for line in script.lines if line.node == "pi4-1" and line.event == "model_fetched"]
    assert device.bytes.up == Layers(
        raw=sum(f["raw_bytes"] for f in made), encoded=sum(f["bytes"] for f in made), mqtt=run.MQTT_BYTES,
        wire=run.WIRE_BYTES,
    )  # fmt: skip
    tasks = {f["task"] for f in fetched if not f["object"].startswith("graph-")}
    graphs = sum(f["bytes"] for f in fetched if f["object"].startswith("graph-"))
    assert device.bytes.down == Layers(
        raw=graphs + len(tasks) * run.RAW_BYTES, encoded=sum(f["bytes"] for f in fetched),
        mqtt=2 * run.MQTT_BYTES, wire=2 * run.WIRE_BYTES,
    )  # fmt: skip
    assert device.bytes.wire_source == "interface eth0"


def test_the_total_is_the_sum_of_the_devices_and_layers_grow_the_right_way() -> None:
    summary = summarize(record_of(run.whole_run()))
    assert summary.bytes is not None
    found = [device.bytes for device in summary.devices if device.bytes is not None]
    assert len(found) == len(summary.devices)
    for name in LAYERS:
        assert getattr(summary.bytes.up, name) == sum(getattr(one.up, name) for one in found)
    up = summary.bytes.up
    assert up.raw > up.encoded
    assert up.mqtt < up.wire


def test_boots_are_added_and_the_last_word_of_a_boot_counts() -> None:
    script = run.whole_run()
    for at, boot, size in ((20.0, "b1", 100), (25.0, "b1", 700), (26.0, "b0", 50)):
        script.say(at, "pi4-1", "traffic", boot, mqtt_sent=size, mqtt_received=1, wire="")
    device = next(d for d in summarize(record_of(script)).devices if d.name == "pi4-1")
    assert device.bytes is not None
    assert device.bytes.up.mqtt == run.MQTT_BYTES + 50
    assert device.bytes.up.wire is None, "one boot did not count the wire, so there is no sum"


def test_a_layer_that_one_device_lacks_has_no_sum() -> None:
    whole = BytesSummary(up=Layers(raw=4, encoded=3, mqtt=5, wire=6), down=Layers())
    blind = BytesSummary(up=Layers(raw=4, encoded=3, mqtt=5), down=Layers())
    assert in_total([whole, blind]).up == Layers(raw=8, encoded=6, mqtt=10, wire=None)
    assert in_total([]).up == Layers()


def test_what_arrived_of_a_device_without_a_history_still_counts() -> None:
    script = run.whole_run()
    script.lines = [line for line in script.lines if line.node != "pi4-1"]
    record = record_of(script)
    device = next(d for d in summarize(record).devices if d.name == "pi4-1")
    received = [task for task in record.received if task.agent == "pi4-1"]
    assert device.bytes is not None
    assert received
    assert device.bytes.up.encoded == sum(task.bytes for task in received)
    assert device.bytes.up.raw == len(received) * run.RAW_BYTES
    assert (device.bytes.up.mqtt, device.bytes.down.encoded) == (None, None)


def test_a_device_cannot_break_the_summary_with_its_own_figures() -> None:
    script = run.whole_run()
    for value in (-1, 1.5, "many", None, True, 10**30):
        script.say(30.0, "pi4-1", "traffic", "b1", mqtt_sent=value, wire_sent=value, wire=7)
    summary = summarize(record_of(script))
    assert msgspec.json.encode(summary)


def test_every_layer_can_be_expected() -> None:
    names = [f"{prefix}_{layer}_bytes" for prefix in ("uplink", "downlink") for layer in LAYERS]
    assert set(names) <= METRICS.keys() & NAMES.keys()
    record = record_of(run.whole_run())
    for name in names:
        judged = judge(record, Expectation(metric=name, op=">=", value=1.0))
        assert judged.held, name


def test_the_report_shows_the_total_and_every_device() -> None:
    summary = summarize(record_of(run.whole_run()))
    text = str(tables.layers(summary))
    assert "Bytes at four layers" in text
    assert all(device.name in text for device in summary.devices)
    old = msgspec.structs.replace(summary, bytes=None, devices=())
    assert "Nobody counted them" in str(tables.layers(old))
