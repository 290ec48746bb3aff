"""Bytes of the loss probes: a figure of their own, from both sides, and none where nobody was asked."""

from __future__ import annotations

import synthetic_run as run
from test_history_summary import record_of

from history.probes import ProbeSummary
from history.report import render
from history.summarize import summarize

TASK = "p1-v0-e1"


def probed_run() -> run.Script:
    """Before the first round three devices are asked, two answer, and the third has fetched."""
    script = run.whole_run()
    at = next(line.at for line in script.lines if line.event == "round_opened") - 0.5
    script.coordinator(at, "losses_wanted", task=TASK, round=1, version=0, candidates=["pi4-1", "pi4-2"])
    for name in ("pi4-1", "pi4-2", "zero-1"):
        fields = {"task": TASK, "version": 0, "object": "v0", "bytes": 1_000, "wall_s": 0.1}
        script.say(at + 0.1, name, "model_fetched", **fields)
    for name in ("pi4-1", "pi4-2", "nobody-9"):
        answer = {"task": TASK, "round": 1, "version": 0, "loss": 2.3, "samples": 64, "fetch_bytes": 1_000}
        script.coordinator(at + 0.2, "loss_probed", agent=name, bytes=60, **answer)
    return script


def test_what_was_sent_and_fetched_for_probes_is_said() -> None:
    record = record_of(probed_run())
    summary = summarize(record)
    assert summary.probes == ProbeSummary(asked=1, answers=2, uplink_bytes=120, downlink_bytes=3_000)
    page = render(record, summary)
    assert "Loss probes" in page
    assert "2 answers, 3 kB of it down" in page


def test_it_is_part_of_the_bytes_down_and_beside_the_chunks_up() -> None:
    plain, summary = summarize(record_of(run.whole_run())), summarize(record_of(probed_run()))
    assert summary.downlink_bytes == plain.downlink_bytes + 3_000
    assert summary.uplink_bytes == plain.uplink_bytes


def test_a_run_that_asks_for_no_loss_has_no_such_figure() -> None:
    record = record_of(run.whole_run())
    summary = summarize(record)
    assert summary.probes is None
    assert "Loss probes" not in render(record, summary)
