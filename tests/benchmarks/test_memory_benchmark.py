"""An agent that trains the paper's cnn in batches of 16 with momentum stays within 120 MB; so it is claimed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

AGENT_MB_MAX = 120


@pytest.mark.slow
def test_an_agent_that_trains_the_cnn_fits() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", "--model", "cnn", "--batch", "16", "--steps", "20"],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["imported_mb"] < found["peak_rss_mb"] <= found["peak_with_encoding_mb"] <= AGENT_MB_MAX
