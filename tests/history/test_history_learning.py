"""Metrics beside accuracy, from the coordinator's event to summary, verdict and report; and who got what."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
import synthetic_run as run

from history.baselines import Baseline, BaselinePoint, Baselines, LocalDevice, LocalOnly
from history.derive import derive
from history.fields import gaps, matrix
from history.record import Record
from history.report import render
from history.summarize import summarize
from history.verdict import judge
from topology.allotment import Allotment, Share
from topology.plan import Expectation

CONFUSION = [[8, 2, 0], [1, 9, 0], [0, 0, 0]]


def record_with(**fields: Any) -> Record:
    """The synthetic run, whose evaluations say more, or something else."""
    script = run.whole_run()
    for line in script.lines:
        if line.event == "evaluated":
            line.fields |= fields
    return derive(script.history(), script.plan)


CLASSIFIED = {
    "metrics": {"f1": 0.81, "perplexity": 2.5, "surprise": 1.0},
    "confusion": CONFUSION,
    "per_class": [0.8, 0.9, None],
}


def observed(record: Record, metric: str) -> float | None:
    return judge(record, Expectation(metric=metric, op=">=", value=0.0)).observed


def test_each_metric_can_be_expected() -> None:
    record = record_with(**CLASSIFIED)
    assert observed(record, "f1") == 0.81
    assert observed(record, "perplexity") == 2.5
    assert observed(record, "worst_class_accuracy") == 0.8
    assert observed(record, "largest_confusion") == pytest.approx(0.2)
    assert observed(record, "loss") is not None
    assert observed(record, "mse") is None  # what was not recorded is not judged


def test_a_regression_has_no_accuracy_and_is_drawn_by_its_loss() -> None:
    record = record_with(accuracy=None, loss=0.25, metrics={"mse": 0.25}, per_class=[], confusion=[])
    summary = summarize(record)
    assert (summary.final_accuracy, summary.final_loss) == (None, 0.25)
    assert observed(record, "mse") == 0.25
    assert observed(record, "accuracy") is None
    assert observed(record, "best_accuracy") is None
    page = render(record, summary)
    assert "Loss over time" in page
    assert "Accuracy over time" not in page
    assert "a test loss of 0.25" in page


def test_the_report_has_metrics_matrix_and_shares() -> None:
    record = record_with(**CLASSIFIED)
    record.data = Allotment(
        dataset="toy",
        origin="made up",
        partition="dirichlet (alpha 0.5)",
        test_samples=20,
        shares=(
            Share(device="pi4-1", samples=30, test_samples=3, classes=(10, 20, 0)),
            Share(device="pi4-2", samples=7, classes=(0, 0, 7)),
        ),
        notes=("after 20 draws, 3 samples were moved",),
    )
    summary = summarize(record)
    assert summary.final_metrics == {"f1": 0.81, "perplexity": 2.5}
    page = render(record, summary)
    for said in (
        "F1, mean over classes",
        "Confusion of the last version",
        "dirichlet (alpha 0.5)",
        "class 1: 20",
    ):
        assert said in page
    assert "3 samples were moved" in page


@pytest.mark.parametrize("broken", ["x", [1, 2], [[1], [2]], [[1, 2], [3, -4]], [[1, 2], [3, "4"]], [[True]]])
def test_a_broken_matrix_is_none(broken: object) -> None:
    assert matrix({"confusion": broken}, "confusion") == []


def test_lists_keep_their_gaps_or_are_nothing() -> None:
    assert gaps({"x": [0.5, None, 1]}, "x") == [0.5, None, 1.0]
    assert gaps({"x": [0.5, "much"]}, "x") == []
    assert gaps({"x": float("nan")}, "x") == []


# --- baselines --------------------------------------------------------------------------------------------------------


def baseline(**fields: Any) -> Baseline:
    return Baseline(**({"rounds": 2, "steps": 8, "accuracy": 0.9, "loss": 0.3, "wall_s": 1.0} | fields))


def page_with(record: Record, **found: Any) -> str:
    record.baselines = Baselines(run="r", seed=1, rounds=2, **found)
    return render(record, summarize(record))


ALONE = LocalOnly(
    devices=(LocalDevice(device="pi4-1", rounds=2, steps=4, accuracy=0.4, loss=1.7),),
    accuracy=0.4,
    accuracy_min=0.4,
    accuracy_max=0.4,
    loss=1.7,
    steps=4,
    wall_s=1.0,
)
CURVE = tuple(BaselinePoint(round=n, steps=4 * n, accuracy=0.4 + n / 4, loss=1.0 / n) for n in (1, 2))


def companions(page: str) -> list[tuple[str, str, str]]:
    """Class, points and name of every line beside the run's own."""
    return re.findall(r'<polyline points="([^"]*)" class="companion ([^"]*)"><title>([^<]*)', page)


def test_baselines_are_levels_over_time_and_bytes_and_curves_over_rounds() -> None:
    page = page_with(
        record_with(),
        fedavg=baseline(curve=CURVE),
        centralised=baseline(note="it diverged"),
        local_only=ALONE,
    )
    drawn = companions(page)
    assert [line for _, line, _ in drawn] == ["b-fedavg", "b-centralised", "b-local"] * 3
    heights = [[point.split(",")[1] for point in points.split()] for points, _, _ in drawn]
    assert all(len(set(each)) == 1 for each in heights[:6])  # levels
    assert len(set(heights[6])) == 2
    assert drawn[1][2] == "centralised: 90.0 % (it diverged)"
    assert page.count('class="legend"') == 3  # of both pairs of charts, and of the timeline
    assert "each device alone, mean: 40.0 %" in page


def test_a_run_without_baselines_is_drawn_as_before() -> None:
    page = render(record := record_with(), summarize(record))
    assert companions(page) == []
    assert page.count('class="legend"') == 1
    assert "over rounds" not in page


def test_what_never_began_or_went_beyond_the_axis_is_not_drawn() -> None:
    never = page_with(
        record_with(), fedavg=baseline(rounds=0), local_only=msgspec.structs.replace(ALONE, devices=())
    )
    assert companions(never) == []
    regression = record_with(accuracy=None, loss=0.25, metrics={}, per_class=[], confusion=[])
    beyond = page_with(
        regression, fedavg=baseline(accuracy=None, loss=1e30), centralised=baseline(accuracy=None, loss=0.2)
    )
    assert {name for _, _, name in companions(beyond)} == {"centralised: 0.2"}
