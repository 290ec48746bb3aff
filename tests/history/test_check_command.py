"""`edgerig check`: exit code 1 also when nothing could be judged, 0 when some checks have nothing to say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import synthetic_run as run
from typer.testing import CliRunner

from edgerig.commands.record import app


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return run.whole_run(faults=()).write(tmp_path)


def check(root: Path, *more: str) -> tuple[int, dict[str, str]]:
    done = CliRunner().invoke(app, ["check", str(root), "--format", "json", *more])
    return done.exit_code, {item["name"]: item["outcome"] for item in json.loads(done.stdout)}


def test_what_has_nothing_to_say_is_no_failure(root: Path) -> None:
    code, outcomes = check(root)
    assert set(outcomes.values()) <= {"pass", "unknown"}
    assert code == 0


@pytest.mark.parametrize("whose", ["*", "coordinator"])
@pytest.mark.parametrize("emptied", [True, False])
def test_a_history_that_is_gone_can_not_be_judged(root: Path, whose: str, emptied: bool) -> None:
    for path in root.glob(f"nodes/{whose}/history.jsonl"):
        path.write_bytes(b"") if emptied else path.unlink()
    assert check(root)[0] == 1
    done = CliRunner().invoke(app, ["check", str(root)])
    assert "nothing could be judged" in done.stdout
