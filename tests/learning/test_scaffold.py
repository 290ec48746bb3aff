"""SCAFFOLD's option II: the change of a control variate is the mean of a task's own gradients, less what it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning.autodiff import build_training_graph, initial_parameters
from learning.datasets import load
from learning.models import build_model
from learning.scaffold import change
from learning.shard import Shard
from learning.trainer import Trainer, TrainingSpec

BATCH = 16


@given(st.integers(1, 40), st.floats(0.001, 1.0), st.integers(0, 1_000))
def test_with_the_same_gradient_in_every_step_the_variate_becomes_it(
    steps: int, lr: float, seed: int
) -> None:
    """Whatever c and ci are: what corrected the gradients is taken out again."""
    rng = np.random.default_rng(seed)
    g, server, own = (rng.standard_normal(50).astype(np.float32) for _ in range(3))
    kept = server.copy()
    delta = -np.float32(steps * lr) * (g + server - own)
    before = delta.copy()
    moved = change(server, delta, steps, lr)
    np.testing.assert_allclose(own + moved, g, atol=2e-5)
    np.testing.assert_array_equal(delta, before)
    assert moved is server
    assert (kept != server).any()


@pytest.mark.parametrize(("steps", "lr"), [(0, 0.1), (3, 0.0)])
def test_without_a_step_or_a_rate_there_is_no_mean(steps: int, lr: float) -> None:
    with pytest.raises(ValueError, match="at least one step"):
        change(np.zeros(3, np.float32), np.zeros(3, np.float32), steps, lr)


@pytest.fixture(scope="module")
def rig() -> tuple[Trainer, np.ndarray]:
    model = build_model("mlp", 1)
    artifact = build_training_graph(model, batch_size=BATCH)
    data = load("mnist-mini")
    # A shard of one batch: every step has the same samples, so that gradients can be taken one by one.
    return Trainer(artifact, Shard(data.train_x[:BATCH], data.train_y[:BATCH])), initial_parameters(
        model, artifact
    )


def spec(steps: int, **changes: float) -> TrainingSpec:
    return TrainingSpec(batch_size=BATCH, lr=0.1, local_steps=steps, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_a_real_task_leaves_the_mean_of_its_gradients(rig: tuple[Trainer, np.ndarray], decay: float) -> None:
    trainer, start = rig
    rng = np.random.default_rng(1)
    server, own = (rng.standard_normal(start.size).astype(np.float32) * np.float32(0.01) for _ in range(2))
    steps, lr = 5, 0.1
    result = trainer.train(start, spec(steps, weight_decay=decay), 1, correction=server - own)
    point, gradients = start.copy(), np.zeros(start.size)
    for _ in range(steps):
        delta = trainer.train(point, spec(1, weight_decay=decay), 1).delta  # one step without a correction
        gradients -= delta / lr
        point += delta - np.float32(lr) * (server - own)
    assert result.steps == steps
    moved = change(server.copy(), result.delta, result.steps, lr)
    np.testing.assert_allclose(own + moved, gradients / steps, atol=2e-4)


def test_a_correction_of_its_own_drift_holds_a_device_in_place(rig: tuple[Trainer, np.ndarray]) -> None:
    """At a fixed point ci is the device's gradient and c the mean of all: a c of zero makes it stay."""
    trainer, start = rig
    gradient = -trainer.train(start, spec(1), 1).delta / np.float32(0.1)
    assert np.abs(trainer.train(start, spec(1), 1, correction=-gradient).delta).max() < 1e-6
