"""How a run merges: its plan, turned into what `coordinator.merge` needs. Service, recovery and audit share it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from coordinator.merges import MergeSpec
from topology.plan import Plan


def merge_spec(plan: Plan, state: Sequence[slice]) -> MergeSpec:
    """`state`: the slices of the flat vector that are statistics (`TrainingArtifact.state`)."""
    return MergeSpec(
        rule=plan.merge,
        server_lr=plan.policy.server_lr,
        local_momentum=plan.training.optimizer.momentum,
        steps_max=steps_max(plan),
        state=tuple((part.start, part.stop) for part in state),
    )


def steps_max(plan: Plan) -> int:
    """More steps than whole epochs of the largest shard have, nobody can have made."""
    training = plan.training
    return training.local_epochs * math.ceil(plan.data.samples_per_device / training.batch_size)
