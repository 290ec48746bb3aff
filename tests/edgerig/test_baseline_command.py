"""`edgerig baseline` as a user runs it: kept in the run's folder, shown in report and summary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.small_run import make_small_run, small_plan
from typer.testing import CliRunner

from edgerig.cli import app
from history.baselines import BASELINES_NAME, load_baselines
from history.summary import load_summary

runner = CliRunner()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_small_run(tmp_path / "run-1", small_plan())


def test_all_of_them_stand_beside_the_run(root: Path) -> None:
    found = runner.invoke(app, ["baseline", str(root)])
    assert found.exit_code == 0, found.output
    for word in ("this run", "fedavg", "centralised", "local-only", "mean of 3 devices"):
        assert word in found.output
    kept = load_baselines(root / BASELINES_NAME)
    assert kept is not None
    assert kept.rounds == 4  # the run has no versions: as many as were asked for
    assert load_summary(root / "summary.json").baselines == kept
    page = (root / "report.html").read_text()
    assert "FedAvg, uncompressed" in page
    assert "each of 3 devices alone, mean" in page


def test_only_one_and_then_another_one_beside_it(root: Path) -> None:
    one = runner.invoke(app, ["baseline", str(root), "--only", "centralised", "--format", "json"])
    said = json.loads(one.stdout)
    assert said["centralised"]["accuracy"] is not None
    assert said["fedavg"] is None
    runner.invoke(app, ["baseline", str(root), "--only", "fedavg"])
    kept = load_baselines(root / BASELINES_NAME)
    assert kept is not None
    assert kept.fedavg is not None
    assert kept.centralised is not None
    runner.invoke(app, ["baseline", str(root), "--only", "local-only", "--rounds", "2"])
    other = load_baselines(root / BASELINES_NAME)
    assert other is not None
    assert (other.rounds, other.centralised) == (
        2,
        None,
    )  # of other rounds, so they are not beside one another


def test_without_shards_it_says_what_is_missing(root: Path) -> None:
    (root / "shards" / "test").rename(root / "shards" / "elsewhere")
    found = runner.invoke(app, ["baseline", str(root)])
    assert found.exit_code != 0
    assert "shards/test is not there" in str(found.exception)


def test_a_report_without_baselines_has_no_such_section(root: Path) -> None:
    assert runner.invoke(app, ["report", str(root)]).exit_code != 2
    assert "FedAvg, uncompressed" not in (root / "report.html").read_text()
