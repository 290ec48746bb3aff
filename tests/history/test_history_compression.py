"""Residual norms per device and task, and what `auto` chose, from the events of both sides to summary and report."""

from __future__ import annotations

import synthetic_run as run

from history.derive import derive
from history.report.page import render
from history.summarize import summarize


def scripted() -> run.Script:
    script = run.Script(run.make_plan())
    reason = "accuracy rises slowly: 0.01 of an update; 1 Mbit/s measured"
    for number in (1, 2):
        task = f"r{number}-t{number}"
        at = 30.0 * number
        script.coordinator(at, "task_opened", task=task, agent="pi4-1", round=number, version=number - 1)
        script.coordinator(
            at, "compression_chosen", task=task, agent="pi4-1", share=0.01 * number, bits=8, rate_bit_s=1e6,
            reason=reason,
        )  # fmt: skip
        script.say(
            at + 1, "pi4-1", "encoded", task=task, sha256="a" * 64, bytes=1_000 * number, raw_bytes=400_000,
            residual_norm=0.5 / number, residual_share=1.0,
        )  # fmt: skip
    report = {"residual_norm": 0.125, "residual_share": 0.25, "raw_bytes": 400_000}
    script.coordinator(95.0, "task_opened", task="r3-t3", agent="zero-1", round=3, version=2)
    script.coordinator(
        96.0, "update_offered", task="r3-t3", agent="zero-1", sha256="b" * 64, bytes=10, report=report
    )
    return script


def test_every_device_and_task_has_its_residual_and_its_choice() -> None:
    script = scripted()
    summary = summarize(derive(script.history(), script.plan))
    devices = {device.name: device for device in summary.compression}
    assert set(devices) == {device.name for device in script.plan.devices}
    mine = devices["pi4-1"]
    assert (mine.updates, mine.update_bytes, mine.ratio) == (2, 1_500.0, 266.67)
    assert (mine.residual_norm, mine.residual_norm_max) == (0.25, 0.5)
    assert [(task.task, task.residual_norm, task.share, task.bits) for task in mine.tasks] == [
        ("r1-t1", 0.5, 0.01, 8),
        ("r2-t2", 0.25, 0.02, 8),
    ]
    assert "1 Mbit/s measured" in mine.tasks[0].reason
    told = devices["zero-1"].tasks[0]  # its own history is lost: the report of its offer tells
    assert (told.residual_norm, told.residual_share) == (0.125, 0.25)
    assert devices["field-1"].updates == 0


def test_the_report_shows_both_tables_and_the_second_only_with_auto() -> None:
    script = scripted()
    record = derive(script.history(), script.plan)
    page = render(record, summarize(record))
    assert "Compression per device" in page
    assert "What auto chose" in page
    assert "accuracy rises slowly" in page
    script.lines = [line for line in script.lines if line.event != "compression_chosen"]
    record = derive(script.history(), script.plan)
    assert "What auto chose" not in render(record, summarize(record))


def test_a_device_cannot_say_what_was_chosen_for_it() -> None:
    script = scripted()
    script.say(40.0, "pi4-1", "compression_chosen", task="r1-t1", agent="pi4-1", share=1.0, bits=1)
    tasks = derive(script.history(), script.plan).tasks
    assert tasks["r1-t1"].compression["share"] == 0.01
