"""The loss of a version on some of a device's own samples: what `selection: power_of_choice` asks for."""

from __future__ import annotations

import numpy as np

from learning.artifact import Flat, TrainingArtifact
from learning.evaluator import Evaluator
from learning.shard import Shard
from learning.travelling import put_local, travelling


def local_loss(
    artifact: TrainingArtifact,
    shard: Shard,
    parameters: Flat,
    own: Flat | None,
    samples_max: int,
    seed: int,
    threads: int = 1,
) -> tuple[float, int]:
    """Mean loss, and of how many samples: all of the shard, or `samples_max` drawn from it without replacement.

    `own`: the device's values of the artifact's local parts. Only the samples drawn are read from the disk.
    """
    if len(shard) > samples_max:
        drawn = np.sort(np.random.default_rng(seed).choice(len(shard), samples_max, replace=False))
        shard = Shard(np.asarray(shard.x[drawn]), np.asarray(shard.y[drawn]))
    vector = travelling(artifact).widen(parameters)
    put_local(artifact, vector, own)
    # The batch of the training: a device that can train it can evaluate it.
    found = Evaluator(artifact, shard, artifact.batch_size, threads).evaluate(vector)
    return found.loss, found.samples
