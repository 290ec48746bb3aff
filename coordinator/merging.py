"""How a run merges: its plan, turned into what `coordinator.merge` needs. Service, recovery and audit share it."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.merges import MergeSpec
from topology.plan import Plan


def merge_spec(plan: Plan, state: Sequence[slice]) -> MergeSpec:
    """`state`: the slices of the flat vector that are statistics (`TrainingArtifact.state`)."""
    training = plan.training
    return MergeSpec(
        rule=plan.merge,
        server_lr=plan.policy.server_lr,
        local_momentum=training.optimizer.momentum,
        local_epochs=training.local_epochs,
        local_steps=training.local_steps,
        batch_size=training.batch_size,
        state=tuple((part.start, part.stop) for part in state),
    )
