"""The Makefile's decisions, with a fake setup and a fake edgerig: what runs when Docker can or cannot be had."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
BOUND_S = 60

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for folder in ("scripts/lib", ".venv/bin", ".cache/torch-venv/bin", "benchmarks"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(REPO / "Makefile", tmp_path)
    program(tmp_path / ".venv/bin/edgerig", 'echo "edgerig $*"')
    program(tmp_path / ".venv/bin/python", 'echo "python $*"')
    program(tmp_path / ".cache/torch-venv/bin/python", 'echo "python with torch $*"')
    return tmp_path


def program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def with_setup(clone: Path, code: int) -> None:
    """A setup that ends with `code`, but with 0 when only Python is asked for."""
    program(clone / "scripts/setup", f'echo "setup $*"; [ "$1" = --python-only ] || exit {code}')


def make(clone: Path, target: str, **environment: str) -> subprocess.CompletedProcess[str]:
    base = {key: value for key, value in os.environ.items() if key not in ("CI", "MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(
        ["make", target],
        cwd=clone,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        env={**base, **environment},
    )


def test_demo_runs_in_docker_where_it_can(clone: Path) -> None:
    with_setup(clone, 0)
    done = make(clone, "demo")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["setup ", "edgerig run topology/examples/quickstart.yaml"]


def test_demo_without_docker_says_so_and_runs_processes(clone: Path) -> None:
    with_setup(clone, 3)
    done = make(clone, "demo")
    assert done.returncode == 0, done.stderr
    assert "NO DOCKER HERE" in done.stdout
    assert done.stdout.splitlines()[-1] == "edgerig run topology/examples/quickstart.yaml --runtime process"


def test_demo_ends_when_setup_fails_otherwise(clone: Path) -> None:
    with_setup(clone, 1)
    done = make(clone, "demo")
    assert done.returncode != 0
    assert "edgerig" not in done.stdout


def test_demo_fails_when_the_run_does(clone: Path) -> None:
    with_setup(clone, 0)
    program(clone / ".venv/bin/edgerig", "exit 1")
    assert make(clone, "demo").returncode != 0


def test_test_in_ci_fails_without_docker(clone: Path) -> None:
    with_setup(clone, 3)
    done = make(clone, "test", CI="true")
    assert done.returncode != 0
    assert "pytest" not in done.stdout


def test_test_elsewhere_says_what_is_skipped(clone: Path) -> None:
    with_setup(clone, 3)
    done = make(clone, "test")
    assert done.returncode == 0, done.stderr
    assert "tests that need it are skipped" in done.stdout
    assert "-m pytest" in done.stdout.splitlines()[-1]


def test_test_passes_failure_on(clone: Path) -> None:
    with_setup(clone, 0)
    program(clone / ".venv/bin/python", "exit 1")
    assert make(clone, "test").returncode != 0


def test_the_oracles_tests_run_where_pytorch_is(clone: Path) -> None:
    with_setup(clone, 0)
    lines = make(clone, "test-torch").stdout.splitlines()
    assert lines[0] == "setup --torch"
    assert all(line.startswith("python with torch") for line in lines[1:])
    assert lines[-1].endswith("-m pytest -m torch or privacy")


def test_without_pytorch_the_oracles_tests_fail_rather_than_skip(clone: Path) -> None:
    """All of them skipped would be exit code 0."""
    with_setup(clone, 0)
    program(clone / ".cache/torch-venv/bin/python", 'case "$*" in *"import torch"*) exit 1 ;; esac')
    assert make(clone, "test-torch").returncode != 0


def test_help_names_every_target(clone: Path) -> None:
    said = make(clone, "help").stdout
    for target in (
        "setup",
        "demo",
        "process-demo",
        "test",
        "test-torch",
        "check",
        "bench",
        "images",
        "clean",
    ):
        assert f"make {target} " in said
