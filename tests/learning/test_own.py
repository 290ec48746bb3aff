"""What is a device's own: optimizer state and local parameters from task to task; and running statistics, which are
state. On the network of bring-your-own.yaml, exported by PyTorch with BatchNorm and Dropout.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from learning.artifact import Flat, TrainingArtifact, unflatten
from learning.autodiff import build_training_graph, initial_parameters
from learning.autodiff.rewrite import inference_mode
from learning.evaluator import Evaluator
from learning.making import normalization, with_local
from learning.optimizers import OPTIMIZERS
from learning.shard import Shard
from learning.trainer import Own, Trainer, TrainingDiverged, TrainingSpec
from learning.travelling import travelling

MODEL = onnx.load(str(Path(__file__).parents[2] / "topology" / "examples" / "models" / "digits.onnx"))
BATCH = 8
RNG = np.random.default_rng(8)
SHARD = Shard(RNG.integers(0, 256, (29, 28, 28), np.uint8), RNG.integers(0, 10, 29))


def artifact_of(batch_norm: str = "train", dropout: bool = False) -> TrainingArtifact:
    made = build_training_graph(
        MODEL,
        batch_size=BATCH,
        batch_norm="frozen" if batch_norm == "frozen" else "train",
        dropout=dropout,
    )
    return (
        with_local(made, normalization(MODEL), initial_parameters(MODEL, made))
        if batch_norm == "local"
        else made
    )


def spec(**changes: object) -> TrainingSpec:
    return msgspec.structs.replace(TrainingSpec(batch_size=BATCH, lr=0.05, momentum=0.9), **changes)


def start(artifact: TrainingArtifact) -> Flat:
    return travelling(artifact).cut(initial_parameters(MODEL, artifact))


def named(artifact: TrainingArtifact, flat: Flat, ending: str) -> list[np.ndarray]:
    return [value for name, value in unflatten(artifact, flat).items() if name.endswith(ending)]


# --- statistics


def test_statistics_are_state_and_variances_are_known():
    artifact = artifact_of()
    kinds = {s.name: (s.kind, s.nonnegative) for s in artifact.parameters if "running" in s.name}
    assert kinds == {
        "1.running_mean": ("state", False),
        "1.running_var": ("state", True),
        "4.running_mean": ("state", False),
        "4.running_var": ("state", True),
    }
    assert not artifact_of("frozen").state


def test_statistics_move_whatever_the_optimizer_does_to_weights():
    """Neither learning rate nor decay, clipping, momentum or the proximal term touches them."""
    artifact = artifact_of()
    harsh = spec(lr=0.0, weight_decay=0.5, clip_norm=1e-6, prox_mu=3.0)
    plain = spec(lr=0.0)
    trainer = Trainer(artifact, SHARD)
    moved = trainer.train(start(artifact), harsh, seed=1).delta
    same = trainer.train(start(artifact), plain, seed=1).delta
    for part in artifact.state:
        assert np.abs(moved[part]).max() > 0
        np.testing.assert_array_equal(moved[part], same[part])
    rest = np.ones(artifact.size, np.bool_)
    for part in artifact.state:
        rest[part] = False
    assert not same[rest].any()


def test_running_statistics_follow_onnx_momentum_and_the_biased_variance():
    """new = 0.9·old + 0.1·batch: ONNX's momentum is 1 − PyTorch's, and its variance divides by n, not n − 1."""
    artifact = artifact_of()
    x = SHARD.x[:BATCH]
    flat = start(artifact)
    result = Trainer(artifact, Shard(x, SHARD.y[:BATCH])).train(flat, spec(lr=0.0, local_steps=1), seed=1)
    probe = onnx.ModelProto()
    probe.CopyFrom(inference_mode(MODEL))
    del probe.graph.output[:]
    probe.graph.output.append(onnx.helper.make_empty_tensor_value_info("/0/Conv_output_0"))
    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    (planes,) = session.run(None, {"x": x[:, None].astype(np.float32) / 255})
    (mean, _), (variance, _) = (
        named(artifact, flat + result.delta, e) for e in ("running_mean", "running_var")
    )
    old = named(artifact, flat, "running_var")[0]
    np.testing.assert_allclose(mean, 0.1 * planes.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(variance, 0.9 * old + 0.1 * planes.var((0, 2, 3)), rtol=1e-4)


def test_a_negative_variance_is_refused():
    artifact = artifact_of()
    broken = start(artifact)
    broken[artifact.variances[1]][3] = -0.01
    with pytest.raises(TrainingDiverged, match=r"running variance of -0.01: statistics are never negative"):
        Trainer(artifact, SHARD).train(broken, spec(), seed=1)


def test_a_padded_batch_never_enters_the_statistics():
    """29 samples in batches of 8: the last one is filled with real samples, or dropped if that is asked."""
    trainer = Trainer(artifact_of(), SHARD)
    filled = trainer.train(start(trainer.artifact), spec(), seed=1)
    assert (filled.steps, filled.samples) == (4, 32)
    dropped = trainer.train(start(trainer.artifact), spec(last_batch="drop"), seed=1)
    assert (dropped.steps, dropped.samples) == (3, 24)


def test_evaluation_uses_running_statistics_and_no_dropout():
    """The file was exported in training mode: its inference form must not depend on who else is in the batch."""
    artifact = artifact_of(dropout=True)
    flat = start(artifact)
    whole = Evaluator(artifact, SHARD, batch=29).evaluate(flat)
    single = Evaluator(artifact, SHARD, batch=1).evaluate(flat)
    assert whole.loss == pytest.approx(single.loss, rel=1e-6)
    assert whole.loss == Evaluator(artifact, SHARD, batch=29).evaluate(flat).loss


# --- kept on the device


def test_local_parts_are_never_sent_and_go_on_from_task_to_task():
    artifact = artifact_of("local")
    assert len(artifact.local) == 8  # scale, bias and both statistics of two layers (FedBN)
    trainer, received = Trainer(artifact, SHARD), start(artifact)
    first = trainer.train(received, spec(), seed=1)
    assert first.own.local is not None
    own = sum(part.stop - part.start for part in artifact.local)
    assert first.delta.size == received.size == artifact.size - own
    again = trainer.train(received, spec(local_steps=1, lr=0.0), seed=2, own=first.own)
    fresh = trainer.train(received, spec(local_steps=1, lr=0.0), seed=2)
    assert again.loss_mean != fresh.loss_mean
    scale = slice(0, 12)  # of the first layer: not trained with lr 0, so what was kept is what is left
    np.testing.assert_array_equal(again.own.local[scale], first.own.local[scale])
    assert not np.array_equal(fresh.own.local[scale], first.own.local[scale])


def test_the_proximal_term_leaves_local_parts_alone():
    artifact = artifact_of("local")
    trainer, received = Trainer(artifact, SHARD), start(artifact)
    own = Own(np.full(sum(p.stop - p.start for p in artifact.local), 0.7, np.float32))
    pulled = trainer.train(received, spec(local_steps=1, prox_mu=5.0, momentum=0.0), seed=2, own=own)
    free = trainer.train(received, spec(local_steps=1, momentum=0.0), seed=2, own=own)
    np.testing.assert_array_equal(pulled.own.local, free.own.local)


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
def test_two_tasks_with_a_kept_state_are_one_long_task(kind):
    """The second starts from what the first ended with, parameters and optimizer alike."""
    artifact = artifact_of("frozen")
    chosen = spec(optimizer=kind, keep=True, local_steps=1, lr=0.01)
    one = Shard(SHARD.x[:BATCH], SHARD.y[:BATCH])  # every batch is the same, so their order is no matter
    trainer, flat = Trainer(artifact, one), start(artifact)
    first = trainer.train(flat, chosen, seed=1)
    second = trainer.train(flat + first.delta, chosen, seed=1, own=first.own)
    assert first.own.optimizer is not None
    assert second.own.optimizer is not None
    for before, after in zip(first.own.optimizer.vectors, second.own.optimizer.vectors, strict=True):
        assert np.shares_memory(before, after), "a second copy would count against the device's memory"
    whole = trainer.train(flat, msgspec.structs.replace(chosen, local_steps=2), seed=1)
    np.testing.assert_allclose(first.delta + second.delta, whole.delta, atol=2e-5)
    forgetful = trainer.train(
        flat + first.delta, msgspec.structs.replace(chosen, keep=False), seed=1, own=first.own
    )
    assert np.abs(forgetful.delta - second.delta).max() > 1e-4
    assert forgetful.own.optimizer is None


def test_a_state_of_another_optimizer_is_not_taken():
    sgd, adam = (OPTIMIZERS[kind](5, spec(optimizer=kind)) for kind in ("sgd", "adam"))
    assert not adam.take(sgd.state())
    assert not OPTIMIZERS["adam"](6, spec()).take(adam.state())
    assert sgd.take(sgd.state())


# --- dropout


def test_masks_follow_from_the_seed_of_device_and_task_and_change_with_every_step():
    artifact = artifact_of("frozen", dropout=True)
    trainer, flat = Trainer(artifact, SHARD), start(artifact)
    once = trainer.train(flat, spec(local_steps=3), seed=5)
    again = trainer.train(flat, spec(local_steps=3), seed=5)
    other = trainer.train(flat, spec(local_steps=3), seed=6)
    np.testing.assert_array_equal(once.delta, again.delta)
    assert not np.array_equal(once.delta, other.delta)
    one = Trainer(artifact, Shard(SHARD.x[:BATCH], SHARD.y[:BATCH]))
    still = spec(lr=0.0)
    losses = [one.train(flat, msgspec.structs.replace(still, local_steps=n), seed=5).loss_sum for n in (1, 2)]
    assert losses[1] != pytest.approx(2 * losses[0], rel=1e-6)  # same batch, same weights: another mask
