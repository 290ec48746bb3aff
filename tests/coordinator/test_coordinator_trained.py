"""The model a run came to, read back from its journal."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from support.rig_root import make_plan

from coordinator.journal import Journal, JournalError
from coordinator.trained import trained_model
from learning.autodiff import build_training_graph, initial_parameters
from learning.models import build_model
from topology.plan import dump_plan


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run folder whose journal holds version 0."""
    plan, model = make_plan(1), build_model("mlp")
    artifact = build_training_graph(model, batch_size=4)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "artifact.bin").write_bytes(artifact.to_bytes())
    (tmp_path / "plan.json").write_bytes(dump_plan(plan))
    path = tmp_path / "nodes" / "coordinator" / "journal.sqlite"
    journal = Journal.open(path, run=plan.run, plan_sha256="x")
    initial = initial_parameters(model, artifact)
    with journal.transaction():
        journal.begin_model(initial, plan.compression.downlink.rounding.patterns(0, initial, None))
    journal.close()
    return tmp_path


def test_the_last_version_as_devices_decode_it(root: Path) -> None:
    before = (root / "nodes" / "coordinator" / "journal.sqlite").read_bytes()
    version, vector, artifact = trained_model(root)
    assert version == 0
    initial = initial_parameters(build_model("mlp"), artifact)
    np.testing.assert_array_equal(vector, initial.astype(np.float16).astype(np.float32))
    assert (root / "nodes" / "coordinator" / "journal.sqlite").read_bytes() == before


def test_what_cannot_be_exported_says_why(root: Path) -> None:
    journal = root / "nodes" / "coordinator" / "journal.sqlite"
    with sqlite3.connect(journal) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("DROP TABLE snapshots")
    with pytest.raises(JournalError, match="damaged, or of another version"):
        trained_model(root)
    journal.unlink()
    with pytest.raises(JournalError, match="never got as far as a model"):
        trained_model(root)
