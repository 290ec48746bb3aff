"""`edgerig compose FILE` and nothing else of EdgeRig's: plain `docker compose up` runs it and leaves a report."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from whole_run import REPOSITORY, SMOKE, edgerig, until

pytestmark = [pytest.mark.containers, pytest.mark.slow]
RUN = "plain-compose"


def compose(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = REPOSITORY / ".cache" / "build.env"
    options = ["--env-file", str(settings)] if settings.exists() else []
    # A data network of its own: the example's default may belong to somebody's run.
    environment = {**os.environ, "DOCKER_BUILDKIT": "1", "EDGERIG_PREFIX": "10.213.253"}
    return subprocess.run(
        ["docker", "compose", *options, "-f", str(file), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    printed = edgerig("compose", SMOKE, "--run-id", RUN)
    assert printed.returncode == 0, printed.stderr
    path = tmp_path / "fleet.yaml"
    path.write_text(printed.stdout.replace(f"{REPOSITORY}/runs/{RUN}", str(tmp_path / "out")))
    yield path
    compose(path, "down", "--volumes", "--timeout", "2")


def test_up_writes_a_report(file: Path, tmp_path: Path) -> None:
    started = compose(file, "up", "-d", "--build")
    assert started.returncode == 0, started.stderr[-3000:]
    summary = tmp_path / "out" / "summary.json"
    until(summary.exists, timeout_s=240, what="the report service's summary.json")
    found = json.loads(summary.read_text())
    assert found["rounds"] == 2
    assert found["updates_lost"] == 0
    assert all(expectation["held"] for expectation in found["expectations"])
    assert (tmp_path / "out" / "report.html").exists()
    assert not list((tmp_path / "out").rglob("password"))
