"""Names, folders and locks of runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compose.errors import EnvironmentProblem
from compose.process_runtime import free_ports
from compose.session import DETACHED_NAME, RunnerLock, find_run, is_driven, new_run_id
from compose.sweep import sweep
from topology.compile import RUN_ID


def made(runs: Path, name: str) -> Path:
    root = runs / name
    root.mkdir(parents=True)
    (root / "plan.json").write_text("{}")
    return root.resolve()


def test_run_ids_are_valid_and_differ() -> None:
    ids = {new_run_id("a-name-that-is-much-longer-than-thirty-letters") for _ in range(20)}
    assert len(ids) == 20
    assert all(RUN_ID.match(run) for run in ids)


def test_find_run_by_id_prefix_path_and_latest(tmp_path: Path) -> None:
    root = made(tmp_path, "quick-1123-0001")
    made(tmp_path, "other-1123-0002")
    (tmp_path / "latest").symlink_to(root.name)
    assert find_run(tmp_path, "quick-1123-0001") == root
    assert find_run(tmp_path, "quick") == root
    assert find_run(tmp_path, "latest") == root
    assert find_run(Path("elsewhere"), str(root)) == root


def test_an_ambiguous_or_unknown_run_names_what_there_is(tmp_path: Path) -> None:
    made(tmp_path, "quick-1")
    made(tmp_path, "quick-2")
    with pytest.raises(EnvironmentProblem) as caught:
        find_run(tmp_path, "quick")
    assert "2 runs begin" in caught.value.what
    with pytest.raises(EnvironmentProblem) as caught:
        find_run(tmp_path, "slow")
    assert "quick-2" in caught.value.hint


def test_a_run_is_driven_exactly_while_its_runner_lives(tmp_path: Path) -> None:
    assert not is_driven(tmp_path)
    lock = RunnerLock(tmp_path)
    assert is_driven(tmp_path)
    with pytest.raises(EnvironmentProblem):
        RunnerLock(tmp_path)
    lock.release()
    assert not is_driven(tmp_path)
    (tmp_path / DETACHED_NAME).touch()
    assert is_driven(tmp_path)


def test_a_killed_runner_drops_its_lock(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from compose.session import RunnerLock;"
        f"l = RunnerLock(Path({str(tmp_path)!r})); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=os.getcwd()
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == b"held"
    assert is_driven(tmp_path)
    holder.kill()
    holder.communicate(timeout=10)
    assert not is_driven(tmp_path)


def test_no_port_is_given_twice() -> None:
    """Chosen one after the other, 200 of them held a pair in three runs of four."""
    assert len(set(free_ports(200))) == 200


@pytest.mark.parametrize("name", ["private", ".private.new"])
def test_a_sweep_takes_the_credentials_of_a_dead_run_whole_or_half_made(tmp_path: Path, name: str) -> None:
    dead, alive = made(tmp_path, "dead-1"), made(tmp_path, "alive-1")
    for root in (dead, alive):
        (root / name / "broker").mkdir(parents=True)
    lock = RunnerLock(alive)
    assert sweep(None, tmp_path) == {"dead-1": ["credentials"]}
    assert not (dead / name).exists()
    assert (alive / name).exists()
    lock.release()
