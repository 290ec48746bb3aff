"""What a user gets wrong, or the machine: a message of its own, the documented exit code, nothing left running."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from whole_run import REPOSITORY, SMOKE, edgerig

BROKEN = sorted((REPOSITORY / "tests" / "topology" / "broken").glob("*.yaml"))


def with_environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("file", BROKEN, ids=lambda path: path.stem)
def test_validate_names_every_error_with_its_path(file: Path) -> None:
    """Each broken file lists the paths it expects in comments (`# error: <path>`)."""
    done = edgerig("validate", file)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    expected = [
        line.split(":", 1)[1].strip() for line in file.read_text().splitlines() if line.startswith("# error:")
    ]
    assert expected, f"{file} expects nothing"
    for path in expected:
        assert path in done.stderr, f"{path} is not named:\n{done.stderr}"


def test_a_data_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_environment(monkeypatch, EDGERIG_DATA=str(tmp_path / "nowhere"))
    file = tmp_path / "full.yaml"
    file.write_text(SMOKE.read_text().replace("mnist-mini", "mnist"))
    done = edgerig("run", file, "--runtime", "process", "--runs", tmp_path / "runs")
    assert done.returncode == 2, done.stdout + done.stderr
    assert str(tmp_path / "nowhere") in done.stderr
    assert "mnist-mini" in done.stderr  # what to do instead
    assert not list((tmp_path / "runs").glob("*/plan.json"))


def test_a_dead_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_environment(monkeypatch, DOCKER_HOST=f"unix://{tmp_path}/no.sock")
    done = edgerig("run", SMOKE, "--runs", tmp_path / "runs")
    assert done.returncode == 3
    assert "does not answer" in done.stderr or "not installed" in done.stderr
    assert "make setup" in done.stderr
    assert not list((tmp_path / "runs").glob("*/plan.json"))


def test_no_docker_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_environment(monkeypatch, DOCKER_HOST=f"unix://{tmp_path}/no.sock")
    done = edgerig("run", SMOKE, "--runs", tmp_path / "runs", path=str(tmp_path))
    assert done.returncode == 3
    assert "Docker is not installed" in done.stderr
    assert "--runtime process" in done.stderr


def test_a_runs_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = edgerig("run", SMOKE, "--runtime", "process", "--runs", tmp_path / "file" / "runs")
    assert done.returncode == 3
    assert "--runs" in done.stderr


def test_a_full_disk(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=True)
    try:
        done = edgerig("run", SMOKE, "--runtime", "process", "--runs", small / "runs")
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
    assert done.returncode == 3
    assert "disk is nearly full" in done.stderr


def test_a_run_id_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    done = edgerig("run", SMOKE, "--runtime", "process", "--runs", tmp_path, "--run-id", "mine")
    assert done.returncode == 3
    assert "already" in done.stderr
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_run_id_that_is_no_name(tmp_path: Path) -> None:
    done = edgerig("run", SMOKE, "--runtime", "process", "--runs", tmp_path, "--run-id", "../Escape")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_run(tmp_path: Path) -> None:
    for command in ("status", "report", "audit", "check", "logs", "down"):
        done = edgerig(command, "nothing", "--runs", tmp_path)
        assert done.returncode == 3, (command, done.stderr)
        assert "there is no run" in done.stderr


def test_a_topology_that_is_not_there(tmp_path: Path) -> None:
    done = edgerig("validate", tmp_path / "missing.yaml")
    assert done.returncode == 2
    assert "missing.yaml" in done.stderr
