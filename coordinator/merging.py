"""How a run merges: its plan, turned into what `coordinator.merge` needs. Service, recovery and audit share it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coordinator.merges import MergeSpec
from learning.artifact import TrainingArtifact
from learning.travelling import travelling
from topology.plan import Plan


def merge_spec(plan: Plan, state: Sequence[slice], variances: Sequence[slice] = ()) -> MergeSpec:
    """`state`: the slices of a travelling vector that are statistics (`Travelling.state`), `variances` those of them
    that are never negative.
    """
    training = plan.training
    return MergeSpec(
        rule=plan.merge,
        server_lr=plan.policy.server_lr,
        local_momentum=training.optimizer.momentum,
        local_epochs=training.local_epochs,
        local_steps=training.local_steps,
        batch_size=training.batch_size,
        agents=len(plan.devices),
        wanted=plan.policy.buffer if plan.policy.kind in ("buffered", "asynchronous") else plan.policy.cohort,
        state=tuple((part.start, part.stop) for part in state),
        variances=tuple((part.start, part.stop) for part in variances),
    )


def statistics_of(path: Path) -> tuple[list[slice], list[slice]]:
    """The slices that are no weights, and those of them that are never negative. Without the artifact there is no model
    that could have any.
    """
    if not path.exists():
        return [], []
    moving = travelling(TrainingArtifact.from_bytes(path.read_bytes()))
    return moving.state, moving.variances
