"""Timing the training step, and the quota that follows from two timings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import calibrate as device_side
from edge_agent.errors import ConfigurationError
from learning.artifact import TrainingArtifact
from learning.autodiff import build_training_graph
from learning.calibration import BLOCKS, StepTimes, board, calibrate, quota_for, summarized, time_steps
from learning.models import build_model


@pytest.fixture(scope="module")
def artifact() -> TrainingArtifact:
    return build_training_graph(build_model("mlp"), batch_size=8)


def times(mean: float, low: float, high: float) -> StepTimes:
    return StepTimes(mean_s=mean, median_s=mean, low_s=low, high_s=high, steps=100, wall_s=mean * 100)


def test_steps_are_timed_until_enough_periods_have_passed(artifact: TrainingArtifact) -> None:
    ticks = iter(np.arange(0, 1000, 0.05))
    found = time_steps(artifact, 1, seconds=10.0, clock=lambda: float(next(ticks)))
    assert found.steps == 200
    assert found.mean_s == pytest.approx(0.05)
    assert found.wall_s == pytest.approx(10.0)


def test_short_measurements_still_have_enough_steps(artifact: TrainingArtifact) -> None:
    ticks = iter(np.arange(0, 100_000, 1.0))
    assert time_steps(artifact, 1, seconds=2.0, clock=lambda: float(next(ticks))).steps == 30


@given(st.lists(st.floats(1e-4, 1.0), min_size=BLOCKS, max_size=200))
def test_the_spread_encloses_the_mean(values: list[float]) -> None:
    found = summarized(values)
    assert found.low_s <= found.mean_s * (1 + 1e-9)
    assert found.mean_s <= found.high_s * (1 + 1e-9)


def test_a_throttled_device_is_told_by_its_mean_not_its_median() -> None:
    duty = ([0.004] * 9 + [0.064]) * 20  # a tenth of the steps waits for the next period
    found = summarized(duty)
    assert found.median_s == pytest.approx(0.004)
    assert found.mean_s == pytest.approx(0.01)


def test_a_device_five_times_slower_gets_a_fifth_of_a_core() -> None:
    quota = quota_for(times(0.1, 0.09, 0.11), times(0.02, 0.019, 0.021))
    assert quota.cores == pytest.approx(0.2)
    assert quota.low < 0.2 < quota.high


def test_the_device_writes_a_profile_that_the_host_reads(artifact: TrainingArtifact, tmp_path: Path) -> None:
    file, out = tmp_path / "step.artifact", tmp_path / "mine.yaml"
    file.write_bytes(artifact.to_bytes())
    assert device_side.main(["--artifact", str(file), "--out", str(out), "--seconds", "0.1"]) == 0
    written = yaml.safe_load(out.read_text())
    assert written["batch_size"] == 8
    assert written["step"]["steps"] >= 30
    from edgerig.commands.calibrate import read_profile

    assert read_profile(out).parameters == artifact.size


@pytest.mark.parametrize("content", [None, b"", b"not an artifact"])
def test_a_missing_or_broken_artifact_is_a_configuration_error(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "step.artifact"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"step\.artifact"):
        device_side.main(["--artifact", str(file)])


def test_a_calibration_says_what_was_timed(artifact: TrainingArtifact) -> None:
    found = calibrate(artifact, 1, 0.05)
    assert (found.model, found.batch_size, found.threads) == (artifact.model, 8, 1)
    assert found.cores >= 1
    assert found.memory_bytes > 1 << 27


def test_a_board_says_its_name(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"Raspberry Pi 4 Model B Rev 1.4\0")
    assert board(tmp_path / "model") == "Raspberry Pi 4 Model B Rev 1.4"
    assert board(tmp_path / "none")
