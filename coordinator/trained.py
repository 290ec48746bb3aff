"""What a run's model came to: the last version in its journal, recomputed and compared with the recorded sha256.

trained_model(root) -> (version, vector, artifact)          edgerig model export RUN
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from coordinator.audit import copied
from coordinator.journal import Journal, JournalError
from coordinator.merging import merge_spec
from coordinator.recovery import restore_model
from learning.artifact import TrainingArtifact
from learning.travelling import travelling
from topology.plan import load_plan
from wire.codecs import model as versions
from wire.codecs.arrays import Float32
from wire.topics import COORDINATOR


def trained_model(root: Path) -> tuple[int, Float32, TrainingArtifact]:
    """The version devices would get next, as they decode it, a whole vector: what never travels has its first values.
    The journal itself is only read.

    Raises JournalError if the run has none, or its versions cannot be reached; ArtifactError on a damaged artifact.
    """
    journal = root / "nodes" / COORDINATOR / "journal.sqlite"
    stored = root / "model" / "artifact.bin"
    for path in (journal, stored):
        if not path.is_file():
            raise JournalError(f"{path} is not there: the run never got as far as a model")
    plan, artifact = load_plan(root / "plan.json"), TrainingArtifact.from_bytes(stored.read_bytes())
    moving = travelling(artifact)
    rounding, spec = plan.compression.downlink.rounding, merge_spec(plan, moving.state, moving.variances)
    try:
        with copied(journal) as db:
            model = restore_model(Journal(journal, db, time.time), rounding, 1, spec)
    except sqlite3.DatabaseError as error:
        raise JournalError(f"{journal} is damaged, or of another version of EdgeRig: {error}") from error
    if model is None:
        raise JournalError(f"{journal} holds no version: the coordinator never started a round")
    version, patterns = model.recent[-1]
    return version, moving.widen(versions.from_patterns(patterns)), artifact
