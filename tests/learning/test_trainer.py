"""Training on a device: it learns, repeats bit for bit, and says clearly why it stops."""

from __future__ import annotations

import numpy as np
import pytest

from learning.artifact import ArtifactError
from learning.autodiff import build_training_graph, initial_parameters
from learning.datasets import load
from learning.evaluator import Evaluator, log_softmax
from learning.models import build_model
from learning.shard import Shard
from learning.trainer import Trainer, TrainingCancelled, TrainingDiverged, TrainingSpec, batches

BATCH = 16


@pytest.fixture(scope="module")
def data():
    return load("mnist-mini")


@pytest.fixture(scope="module")
def mlp():
    model = build_model("mlp", 1)
    artifact = build_training_graph(model, batch_size=BATCH)
    return artifact, initial_parameters(model, artifact)


def shard_of(data, count):
    return Shard(data.train_x[:count], data.train_y[:count])


def test_the_mlp_learns(data, mlp):
    artifact, start = mlp
    spec = TrainingSpec(batch_size=BATCH, lr=0.02, momentum=0.9, local_epochs=2)
    result = Trainer(artifact, shard_of(data, 3_000)).train(start, spec, seed=1)
    after = Evaluator(artifact, Shard(data.test_x, data.test_y)).evaluate(start + result.delta)
    assert result.steps == 376
    assert result.samples == 6_000
    assert after.accuracy > 0.87
    assert after.confusion.sum() == 2_000
    assert np.mean(after.per_class_accuracy) == pytest.approx(after.accuracy)
    assert result.step_time_s > 0
    assert result.peak_rss_mb > 30


def test_same_seed_same_delta_and_received_untouched(data, mlp):
    artifact, start = mlp
    kept = start.copy()
    spec = TrainingSpec(batch_size=BATCH, local_steps=9, lr=0.05, momentum=0.9)
    trainer = Trainer(artifact, shard_of(data, 100))
    first, second, other = (trainer.train(start, spec, seed=seed).delta for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 0
    np.testing.assert_array_equal(start, kept)


def test_a_version_in_half_precision_trains_the_same(data, mlp):
    artifact, start = mlp
    half = start.astype(np.float16)
    spec = TrainingSpec(batch_size=BATCH, local_steps=5, lr=0.05, momentum=0.9, prox_mu=0.1)
    trainer = Trainer(artifact, shard_of(data, 100))
    wide = trainer.train(half.astype(np.float32), spec, seed=1).delta
    np.testing.assert_array_equal(trainer.train(half, spec, seed=1).delta, wide)


def test_padding_of_the_last_batch_changes_nothing(data):
    """One batch of 10 in a graph for 16 gives the gradients of a graph for 10."""
    model = build_model("mlp", 1)
    deltas = []
    for batch in (10, 16):
        artifact = build_training_graph(model, batch_size=batch)
        spec = TrainingSpec(batch_size=batch, lr=0.1)
        result = Trainer(artifact, shard_of(data, 10)).train(
            initial_parameters(model, artifact), spec, seed=3
        )
        assert result.samples == 10
        deltas.append(result.delta)
    np.testing.assert_allclose(deltas[1], deltas[0], atol=1e-7)


def test_reported_loss_is_the_datas_mean(data, mlp):
    """With lr 0 nothing moves: the loss of training is that of evaluation, whatever proximal and decay terms
    say.
    """
    artifact, start = mlp
    shard = shard_of(data, 100)
    spec = TrainingSpec(batch_size=BATCH, lr=0.0, weight_decay=0.1, prox_mu=1.0)
    result = Trainer(artifact, shard).train(start, spec, seed=1)
    measured = Evaluator(artifact, shard, batch=30).evaluate(start)
    assert result.loss_mean == pytest.approx(measured.loss, rel=1e-5)
    assert result.accuracy == pytest.approx(measured.accuracy)
    assert np.abs(result.delta).max() == 0


def test_divergence_is_its_own_error(data, mlp):
    artifact, start = mlp
    with pytest.raises(TrainingDiverged, match="learning rate"):
        Trainer(artifact, shard_of(data, 200)).train(start, TrainingSpec(batch_size=BATCH, lr=1e20), seed=1)
    # The device lives on: the next task trains.
    Trainer(artifact, shard_of(data, 50)).train(start, TrainingSpec(batch_size=BATCH), seed=1)


def test_progress_can_cancel_and_its_errors_pass(data, mlp):
    artifact, start = mlp
    trainer = Trainer(artifact, shard_of(data, 100))
    spec = TrainingSpec(batch_size=BATCH, local_epochs=2)
    seen = []
    trainer.train(start, spec, seed=1, on_step=lambda step, steps: seen.append((step, steps)))
    assert seen == [(i, 14) for i in range(1, 15)]
    with pytest.raises(TrainingCancelled, match="after step 3 of 14"):
        trainer.train(start, spec, seed=1, on_step=lambda step, _: step < 3)

    def broken(step, steps):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        trainer.train(start, spec, seed=1, on_step=broken)


def test_contradictions_are_refused(data, mlp):
    artifact, start = mlp
    trainer = Trainer(artifact, shard_of(data, 20))
    with pytest.raises(ArtifactError, match="batches of 16, asked for 8"):
        trainer.train(start, TrainingSpec(batch_size=8), seed=1)
    with pytest.raises(ArtifactError, match="expected 199210"):
        trainer.train(start[1:], TrainingSpec(batch_size=BATCH), seed=1)
    with pytest.raises(ArtifactError, match="do not fit"):
        Trainer(artifact, Shard(data.train_x[:5, 1:], data.train_y[:5]))
    with pytest.raises(ArtifactError, match="fed uint8"):
        Trainer(artifact, Shard(data.train_x[:5] / 255.0, data.train_y[:5]))


def test_batches_cover_every_epoch_once():
    drawn = list(batches(10, 4, steps=6, seed=2))
    assert [real for _, real in drawn] == [4, 4, 2, 4, 4, 2]
    for epoch in (drawn[:3], drawn[3:]):
        assert sorted(np.concatenate([chosen[:real] for chosen, real in epoch])) == list(range(10))
    assert len({chosen.tobytes() for chosen, _ in drawn}) == 6
    assert all(len(chosen) == 4 for chosen, _ in drawn)
    tiny = list(batches(3, 8, steps=2, seed=0))
    assert [(len(chosen), real) for chosen, real in tiny] == [(8, 3), (8, 3)]


def test_evaluation_loss_matches_its_definition(data, mlp):
    artifact, start = mlp
    shard = Shard(data.test_x[:37], data.test_y[:37])
    got = Evaluator(artifact, shard, batch=10).evaluate(start)
    views = {name: np.asarray(v, np.float64) for name, v in _views(artifact, start).items()}
    h = shard.x.reshape(37, -1) / 255.0
    for layer in ("fc1", "fc2"):
        h = np.maximum(h @ views[f"{layer}.weight"].T + views[f"{layer}.bias"], 0)
    z = h @ views["fc3.weight"].T + views["fc3.bias"]
    assert got.loss == pytest.approx(-log_softmax(z)[np.arange(37), shard.y].mean(), rel=1e-5)
    assert got.accuracy == pytest.approx((z.argmax(1) == shard.y).mean())


def _views(artifact, flat):
    from learning.artifact import unflatten

    return unflatten(artifact, flat)


@pytest.mark.slow
def test_the_cnn_learns(data):
    model = build_model("cnn", 1)
    artifact = build_training_graph(model, batch_size=BATCH)
    start = initial_parameters(model, artifact)
    spec = TrainingSpec(batch_size=BATCH, lr=0.02, momentum=0.9)
    result = Trainer(artifact, shard_of(data, 2_000)).train(start, spec, seed=1)
    after = Evaluator(artifact, Shard(data.test_x[:500], data.test_y[:500])).evaluate(start + result.delta)
    assert after.accuracy > 0.88
