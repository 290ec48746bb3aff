"""A short sample of the fault matrix, without Docker; all of it is `scripts/fault-matrix`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_three_faults_in_the_process_runtime(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            REPOSITORY / "scripts" / "lib" / "fault_matrix.py",
            "process",
            "--only",
            "kill,pause,duplicate_delivery",
            "--runs",
            tmp_path,
        ],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("pass") == 5


def test_the_table_has_a_cell_for_everything_and_says_what_was_not_run() -> None:
    sys.path.insert(0, str(REPOSITORY / "scripts" / "lib"))
    import fault_matrix as matrix

    from topology.schema.faults import FAULTS

    assert {row.kind for row in matrix.ROWS} == set(FAULTS)
    lines = matrix.table({"buffered": {"kill": "pass"}}).splitlines()
    assert len(lines) == 2 + len(matrix.ROWS)
    assert lines[2].split(" | ")[1:] == [
        "pass" if column == "buffered" else "not run" for column in matrix.COLUMNS[:-1]
    ] + ["not run |"]
    assert any("unsupported: needs containers" in line for line in lines)
