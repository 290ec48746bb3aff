"""The examples of learning, whole, in the process runtime: a network of one's own, sensors with a GRU, text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from whole_run import REPOSITORY, edgerig, summary

pytestmark = pytest.mark.slow
EXAMPLES = REPOSITORY / "topology" / "examples"


def run(name: str, tmp_path: Path) -> dict[str, object]:
    ended = edgerig("run", EXAMPLES / f"{name}.yaml", "--runtime", "process", "--runs", tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return summary((tmp_path / "latest").resolve())


def test_bring_your_own(tmp_path: Path) -> None:
    """An export of PyTorch with BatchNorm and Dropout; a run can be repeated from its own folder."""
    found = run("bring-your-own", tmp_path)
    assert found["model"] == "digits"
    root = (tmp_path / "latest").resolve()
    assert (root / "digits.onnx").is_file()
    assert edgerig("validate", root / "topology.yaml", "--no-host").returncode == 0
    assert len(found["confusion"]) == 10  # type: ignore[arg-type]
    audit = edgerig("audit", root)
    assert audit.returncode == 0, audit.stdout + audit.stderr


def test_sensors_and_their_own_test_data(tmp_path: Path) -> None:
    found = run("sensors", tmp_path)
    shares = found["data"]["shares"]  # type: ignore[index]
    assert [(share["samples"], share["test_samples"]) for share in shares] == [(192, 48)] * 4


def test_text(tmp_path: Path) -> None:
    found = run("text", tmp_path)
    assert found["final_metrics"]["perplexity"] < 30  # type: ignore[index]
    assert found["confusion"] == []  # 96 characters are no matrix for a record


def test_models_of_the_devices_own(tmp_path: Path) -> None:
    """Personal models beat the shared one on the devices' own tests, every device is heard about the last version."""
    local = run("personal", tmp_path)["local"]
    assert isinstance(local, dict)
    assert local["personal"]["devices"] == 10
    assert local["personal"]["worst_decile"] > local["received"]["worst_decile"]
    assert {device["version"] for device in local["devices"]} == {8}
    assert all(device["drift"]["updates"] == 8 for device in local["devices"])


def test_models_of_the_devices_own_outlive_kills(tmp_path: Path) -> None:
    """Devices and the coordinator are killed in mid-round: what is kept is what it would have been without."""
    text = (EXAMPLES / "personal.yaml").read_text()
    file = tmp_path / "killed.yaml"
    file.write_text(
        text[: text.index("expect:")]
        + "faults:\n"
        + "  - {when: round 2 collecting, kill: {device: pi4-1}, heal_after: 2 s}\n"
        + "  - {when: round 4 collecting, kill: {service: coordinator}, heal_after: 2 s}\n"
        + "  - {when: round 5 collecting, kill: {device: zero-*}, heal_after: 2 s}\n"
        + "expect: {local_accuracy: '>= 0.95', updates_lost: 0, updates_duplicated: 0}\n"
    )
    ended = edgerig("run", file, "--runtime", "process", "--runs", tmp_path / "runs")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for command in ("audit", "replay"):
        checked = edgerig(command, (tmp_path / "runs" / "latest").resolve())
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_device_whose_loss_is_not_finite_loses_the_task_and_lives_on(tmp_path: Path) -> None:
    """A learning rate without measure: every task fails with that reason, no agent dies, the run ends."""
    file = tmp_path / "wild.yaml"
    file.write_text(
        "name: wild\nseed: 1\n"
        "devices: {pi: {profile: raspberry-pi-4, count: 2, link: ethernet, cpus: 0.5}}\n"
        "data: {dataset: mnist-mini, samples_per_device: 100}\nmodel: mlp\n"
        "training: {rounds: 1, batch_size: 10, optimizer: {lr: 100, momentum: 0.9}}\n"
        "policy: {kind: synchronous, deadline: 5 s, quorum: 1.0}\n"
    )
    ended = edgerig("run", file, "--runtime", "process", "--runs", tmp_path / "runs")
    assert ended.returncode == 1
    root = (tmp_path / "runs" / "latest").resolve()
    lines = (root / "nodes" / "pi-1" / "history.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    reasons = [event["fields"]["reason"] for event in events if event["event"] == "failed"]
    assert reasons
    assert all("loss" in reason or "finite" in reason for reason in reasons)
    assert [event["event"] for event in events].count("agent_started") == 1  # it never died
