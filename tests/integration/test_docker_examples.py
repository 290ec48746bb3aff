"""Examples that are claimed to hold in containers: a network exported by PyTorch, and links that hurt."""

from __future__ import annotations

from pathlib import Path

import pytest
from whole_run import REPOSITORY, edgerig, summary

pytestmark = [pytest.mark.containers, pytest.mark.slow]
EXAMPLES = REPOSITORY / "topology" / "examples"


def test_a_network_exported_by_pytorch_trains_in_containers(tmp_path: Path) -> None:
    artifact = tmp_path / "digits.artifact"
    made = edgerig("model", "prepare", EXAMPLES / "models" / "digits.onnx", "-o", artifact)
    assert made.returncode == 0, made.stdout + made.stderr
    done = edgerig("run", EXAMPLES / "bring-your-own.yaml", "--runs", tmp_path / "runs")
    assert done.returncode == 0, done.stdout + done.stderr
    found = summary((tmp_path / "runs" / "latest").resolve())
    assert (found["verdict"], found["runtime"], found["model"]) == ("pass", "docker", "digits")


def test_slow_links_pass_with_their_bytes_at_four_layers(tmp_path: Path) -> None:
    done = edgerig("run", EXAMPLES / "slow-links.yaml", "--runs", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = summary((tmp_path / "latest").resolve())
    assert found["verdict"] == "pass"
    up = found["bytes"]["up"]
    assert up["raw"] > 100 * up["encoded"] > 0
    assert up["encoded"] < up["mqtt"] < up["wire"]
    assert found["bytes"]["wire_source"].startswith("interface ")
