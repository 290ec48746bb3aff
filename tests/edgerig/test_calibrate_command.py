"""`edgerig calibrate` as a user runs it; the container is another test's matter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from edgerig.cli import app

runner = CliRunner()


@pytest.mark.parametrize("content", [None, "", "[1, 2", "step: {mean_s: -1}"])
def test_a_file_that_is_no_profile_is_refused_by_name(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "pi.yaml"
    if content is not None:
        file.write_text(content)
    found = runner.invoke(app, ["calibrate", str(file)])
    assert found.exit_code == 2
    assert "pi.yaml" in found.output


def test_from_a_profile_to_a_quota(tmp_path: Path) -> None:
    artifact, profile = tmp_path / "step.artifact", tmp_path / "pi.yaml"
    made = runner.invoke(app, ["calibrate", "--artifact", str(artifact), "--model", "mlp"])
    assert made.exit_code == 0
    from edge_agent import calibrate

    calibrate.main(["--artifact", str(artifact), "--out", str(profile), "--seconds", "0.2"])
    device = yaml.safe_load(profile.read_text())
    # Twenty times slower than this host, so that a busy minute of the host cannot make it the slower one.
    device["step"] |= {key: 20 * device["step"][key] for key in ("mean_s", "median_s", "low_s", "high_s")}
    profile.write_text(yaml.safe_dump(device))
    found = runner.invoke(
        app, ["calibrate", str(profile), "--no-verify", "--seconds", "2", "--format", "json"]
    )
    assert found.exit_code == 0, found.output
    said = json.loads(found.output)
    assert said["tried"] is None
    assert said["quota"]["low"] <= said["quota"]["cores"] <= said["quota"]["high"]
