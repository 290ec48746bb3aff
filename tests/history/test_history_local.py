"""The devices' own tests and client drift, from the coordinator's events to summary, verdict and report."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import synthetic_run as run
from hypothesis import given
from hypothesis import strategies as st

from history.derive import derive
from history.local import fairness
from history.record import Record
from history.report import render
from history.summarize import summarize
from history.summary import Summary
from history.verdict import METRICS, judge
from topology.expectations import LOCAL_METRICS
from topology.plan import Expectation, PersonalPlan


def outcome(correct: int | None, answers: int = 10) -> dict[str, Any]:
    return {"samples": 10, "loss": 0.5, "answers": answers, "correct": correct}


def record_with(*said: dict[str, Any], drift: list[dict[str, Any]] | None = None) -> Record:
    script = run.whole_run()
    script.plan = msgspec.structs.replace(script.plan, personalization=PersonalPlan(kind="ditto"))
    for fields in said:
        script.coordinator(50.0, "tested_locally", **fields)
    if drift is not None:
        script.coordinator(51.0, "drift", version=1, round=1, updates=drift)
    return derive(script.history(), script.plan)


def says(agent: str, shared: int | None, own: int | None, version: int = 2, **changes: Any) -> dict[str, Any]:
    fields = {"agent": agent, "task": "survey-v2", "round": None, "version": version}
    return {**fields, "received": outcome(shared), "personal": outcome(own), **changes}


def observed(record: Record, metric: str) -> float | None:
    return judge(record, Expectation(metric=metric, op=">=", value=0.0)).observed


def devices() -> list[str]:
    return list(derive(run.whole_run().history(), run.whole_run().plan).devices)


FIRST, SECOND = devices()[:2]


def test_every_local_figure_can_be_expected() -> None:
    assert METRICS.keys() >= LOCAL_METRICS
    record = record_with(says(FIRST, 2, 9), says(SECOND, 6, 7))
    assert observed(record, "local_accuracy") == pytest.approx(0.8)
    assert observed(record, "local_accuracy_min") == observed(record, "worst_decile_accuracy") == 0.7
    assert observed(record, "local_accuracy_variance") == pytest.approx(0.01)
    assert observed(record, "received_accuracy") == pytest.approx(0.4)
    assert observed(record, "personal_gain") == pytest.approx(0.4)


def test_without_personal_models_the_shared_one_is_what_a_device_uses() -> None:
    record = record_with(says(FIRST, 2, None, personal=None), says(SECOND, 6, None, personal=None))
    assert observed(record, "local_accuracy") == pytest.approx(0.4)
    assert observed(record, "personal_gain") is None


def test_a_run_that_asked_nobody_has_no_local_figures() -> None:
    record = record_with()
    assert summarize(record).local is None
    assert all(observed(record, metric) is None for metric in LOCAL_METRICS)
    assert "Own tests" not in render(record, summarize(record))


def test_the_newest_version_of_each_device_counts_and_its_last_word_about_it() -> None:
    record = record_with(says(FIRST, 1, 3, 2), says(FIRST, 1, 1, 1), says(FIRST, 1, 5, 2))
    assert observed(record, "local_accuracy") == 0.5
    local = summarize(record).local
    assert local is not None
    assert [(v.version, v.personal_accuracy) for v in local.versions] == [(1, 0.1), (2, 0.5)]


@pytest.mark.parametrize(
    "said",
    [
        {"agent": "stranger"},
        {"version": "two"},
        {"received": None, "personal": outcome(11)},
        {"received": outcome(3, answers=0), "personal": {"samples": 10, "loss": "x"}},
        {"received": 5, "personal": [1]},
    ],
)
def test_events_that_make_no_sense_are_no_accuracy(said: dict[str, Any]) -> None:
    record = record_with({**says(FIRST, None, None), **said})
    assert observed(record, "local_accuracy") is None
    summarize(record)


def test_a_device_cannot_record_figures_itself() -> None:
    script = run.whole_run()
    script.say(50.0, FIRST, "tested_locally", **says(FIRST, 10, 10))
    record = derive(script.history(), script.plan)
    assert not record.local
    assert record.foreign_events == 1


DRIFT = [
    {"task": "t1", "agent": FIRST, "norm": 3.0, "cosine": 0.5},
    {"task": "t2", "agent": FIRST, "norm": 1.0, "cosine": None},
    {"task": "t3", "agent": SECOND, "norm": 2.0, "cosine": -0.25},
    {"task": "t4", "agent": SECOND, "norm": -2.0, "cosine": 0.0},
    {"task": "t5", "agent": "stranger", "norm": 2.0, "cosine": 0.0},
]


def test_drift_is_told_per_device_and_version() -> None:
    local = summarize(record_with(drift=DRIFT)).local
    assert local is not None
    found = {device.name: device.drift for device in local.devices if device.drift is not None}
    assert {name: (d.updates, d.norm_mean, d.norm_max) for name, d in found.items()} == {
        FIRST: (2, 2.0, 3.0), SECOND: (1, 2.0, 2.0)
    }  # fmt: skip
    assert (found[FIRST].cosine_mean, found[SECOND].cosine_min) == (0.5, -0.25)
    (version,) = local.versions
    assert (version.version, version.norm_mean, version.cosine_mean) == (1, 2.0, 0.125)


def test_summary_and_report_show_both_and_read_back() -> None:
    record = record_with(says(FIRST, 2, 9), drift=DRIFT)
    summary = summarize(record)
    assert msgspec.json.decode(msgspec.json.encode(summary), type=Summary) == summary
    page = render(record, summary)
    for words in ("Own tests", "personal (ditto)", "worst tenth", "20.0 %", "90.0 %", "cosine"):
        assert words in page


def test_a_summary_of_an_older_version_reads_without_local_figures() -> None:
    written = msgspec.to_builtins(summarize(record_with()))
    del written["local"]
    assert msgspec.convert(written, Summary).local is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=45))
def test_fairness_is_what_numpy_says(accuracies: list[float]) -> None:
    found = fairness([*accuracies, None])
    assert found is not None
    ordered = np.sort(accuracies)
    assert found.devices == len(accuracies)
    assert found.mean == pytest.approx(ordered.mean())
    assert found.variance == pytest.approx(ordered.var(), abs=1e-12)
    worst = ordered[: max(1, -(-len(ordered) // 10))]
    assert found.worst_decile == pytest.approx(worst.mean())
    assert found.min <= found.worst_decile <= found.mean + 1e-12


def test_fairness_of_nobody_is_unknown() -> None:
    assert fairness([None, None]) is None
