"""The loss of a version on a device's own samples: all of them, or a seeded few."""

from __future__ import annotations

import numpy as np
import pytest
from test_evaluator import linear

from learning.artifact import Flat, InputSpec, TrainingArtifact
from learning.autodiff import build_training_graph, initial_parameters
from learning.evaluator import Evaluator
from learning.local_loss import local_loss
from learning.shard import Shard


@pytest.fixture(scope="module")
def rig() -> tuple[TrainingArtifact, Flat, Shard]:
    model = linear(5, 3)
    artifact = build_training_graph(
        model, loss="softmax_cross_entropy", batch_size=4, scaling=InputSpec(dtype="float32", scale=1.0)
    )
    rng = np.random.default_rng(1)
    shard = Shard(rng.standard_normal((30, 5)).astype(np.float32), rng.integers(0, 3, 30))
    return artifact, initial_parameters(model, artifact), shard


def test_of_the_whole_shard_it_is_the_evaluators(rig: tuple[TrainingArtifact, Flat, Shard]) -> None:
    artifact, flat, shard = rig
    loss, samples = local_loss(artifact, shard, flat, None, 30, seed=1)
    assert samples == 30
    assert loss == pytest.approx(Evaluator(artifact, shard).evaluate(flat).loss, rel=1e-6)


def test_of_a_few_it_is_near_bounded_and_the_same_for_the_same_seed(
    rig: tuple[TrainingArtifact, Flat, Shard],
) -> None:
    artifact, flat, shard = rig
    found = [local_loss(artifact, shard, flat, None, 10, seed) for seed in range(200)]
    assert {samples for _, samples in found} == {10}
    assert found[3] == local_loss(artifact, shard, flat, None, 10, 3)
    assert len({loss for loss, _ in found}) > 100
    whole = local_loss(artifact, shard, flat, None, 30, 1)[0]
    assert np.mean([loss for loss, _ in found]) == pytest.approx(whole, rel=0.05)


def test_the_received_parameters_stay_as_they_are(rig: tuple[TrainingArtifact, Flat, Shard]) -> None:
    artifact, flat, shard = rig
    before = flat.copy()
    local_loss(artifact, shard, flat, None, 10, 1)
    assert (flat == before).all()
