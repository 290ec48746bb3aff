"""SCAFFOLD whole, in the process runtime: what the devices hold on their disks is N times what the server holds."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from whole_run import REPOSITORY, edgerig, events, summary

from coordinator.journal import Journal
from coordinator.merges import MergeSpec
from coordinator.recovery import restore_model
from edge_agent.disk import FolderDisk
from edge_agent.spool import Spool
from topology.plan import load_plan
from wire import pair
from wire.codecs import decode

pytestmark = pytest.mark.slow

# Devices, the broker and the coordinator die in the middle of rounds; all of them come back.
DEADLY = """
name: deadly-scaffold
seed: 2
devices: {pi: {profile: raspberry-pi-4, count: 4, cpus: 0.25, link: home-wifi}}
data: {dataset: mnist-mini, samples_per_device: 400, partition: {kind: dirichlet, alpha: 0.3}}
model: mlp
training: {rounds: 8, local_epochs: 1, batch_size: 16, optimizer: {kind: sgd, lr: 0.1}}
merge: {kind: scaffold, control: int8}
policy: {kind: synchronous, cohort: 3, over_select: 1.3, deadline: 20 s, quorum: 0.6}
compression: {uplink: {sparsify: {top_k: 0.05}, quantize: int8}}
faults:
  - {when: round 2 training, kill: pi-1, heal_after: 2 s}
  - {when: round 3 training, kill: coordinator, heal_after: 1 s}
  - {when: 9 updates merged, kill: pi-2, heal_after: 2 s}
  - {when: round 5 training, kill: broker, heal_after: 1 s}
  - {when: version 6, kill: pi-3, heal_after: 1 s}
expect: {rounds: 8, updates_lost: 0, updates_duplicated: 0}
"""


def held_by_all(root: Path, merged: set[str], n: int) -> np.ndarray:
    """float64[n]: control variates on the disks, and what was merged and not settled yet."""
    plan = load_plan(root / "plan.json")
    total = np.zeros(n)
    for device in plan.devices:
        spool = Spool(FolderDisk(root / "nodes" / device.name / "spool"), plan.run)
        assert spool.problems == []
        taken = np.zeros(n, np.float32)
        spool.take_variate_from(taken)
        assert taken.any(), f"{device.name} has never moved its own"
        total -= taken
        for item in spool.restored().items:
            if item.sha256 in merged:
                total += decode(pair.split(spool.payload(item.task))[1], n=n).dense()
    return total


def check_the_sum(root: Path) -> None:
    plan = load_plan(root / "plan.json")
    journal = root / "nodes" / "coordinator" / "journal.sqlite"
    with sqlite3.connect(journal) as db:
        rows = db.execute("SELECT u.sha256 FROM merges m JOIN updates u ON u.task = m.task").fetchall()
        run = db.execute("SELECT value FROM meta WHERE key = 'plan_sha256'").fetchone()[0]
    db.close()
    spec = MergeSpec(rule=plan.merge, server_lr=plan.policy.server_lr, agents=len(plan.devices))
    opened = Journal.open(journal, run=plan.run, plan_sha256=run)
    model = restore_model(opened, plan.compression.downlink.rounding, 1, spec)
    opened.close()
    assert model is not None
    control = model.state["control"]
    assert np.abs(control).max() > 1e-3
    held = held_by_all(root, {sha256 for (sha256,) in rows}, control.size)
    off = np.abs(held - len(plan.devices) * control.astype(np.float64)).max()
    assert off < 1e-4 * np.abs(held).max()


def check_the_record(root: Path) -> None:
    for command in ("audit", "replay"):
        done = edgerig(command, root)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_passes_and_adds_up(tmp_path: Path) -> None:
    example = REPOSITORY / "topology" / "examples" / "scaffold.yaml"
    done = edgerig("run", example, "--runtime", "process", "--runs", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    root = (tmp_path / "latest").resolve()
    found = summary(root)
    assert found["verdict"] == "pass"
    # Two vectors: an int8 and a float16 of each parameter, of eight bytes.
    assert 2.0 < found["uplink_bytes_float32"] / found["uplink_bytes"] < 8 / 3 * 2
    fetched = {event["object"] for event in events(root, "model_fetched")}
    assert {"c0", "c1"} <= fetched
    check_the_record(root)
    check_the_sum(root)


def test_whoever_dies_no_control_variate_moves_twice(tmp_path: Path) -> None:
    file = tmp_path / "deadly.yaml"
    file.write_text(DEADLY)
    done = edgerig("run", file, "--runtime", "process", "--runs", tmp_path / "runs")
    assert done.returncode == 0, done.stdout + done.stderr
    root = (tmp_path / "runs" / "latest").resolve()
    assert len(events(root, "fault_healed")) == 5
    assert events(root, "cancelled"), "nothing came to nothing"
    check_the_record(root)
    check_the_sum(root)
