"""Training on a device: numpy and onnxruntime, nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from learning.artifact import ArtifactError, Flat, TrainingArtifact
from learning.optimizers import (
    OPTIMIZERS,
    OptimizerState,
    add_proximal,
    clip_by_global_norm,
    is_finite,
    subtract,
)
from learning.session import StepSession, peak_rss_mb
from learning.shard import Shard
from learning.travelling import put_local, take_local, travelling
from wire.messages import LocalFigures

Received = npt.NDArray[np.float32] | npt.NDArray[np.float16]
OnStep = Callable[[int, int], Any]
LastBatch = Literal["pad", "fill", "drop"]


NOISE_STREAM = 1  # second word of the seed of dropout's noise: independent of the order of the samples


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite. The task is lost, the device is not."""


class TrainingCancelled(RuntimeError):
    """`on_step` returned False."""


class TrainingSpec(Struct, frozen=True, kw_only=True):
    """How one task trains. `local_steps` goes before `local_epochs`; optimizer state starts at zero unless the device
    keeps its own (`keep`).
    """

    batch_size: Annotated[int, Meta(ge=1, le=65_536)]
    last_batch: LastBatch = "pad"
    local_epochs: Annotated[int, Meta(ge=1, le=10_000)] = 1
    local_steps: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[float, Meta(ge=0)] = 0.05
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    nesterov: bool = False
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.999
    epsilon: Annotated[float, Meta(gt=0)] = 1e-8
    clip_norm: Annotated[float, Meta(gt=0)] | None = None
    prox_mu: Annotated[float, Meta(ge=0)] = 0.0
    keep: bool = False


@dataclass(frozen=True)
class Own:
    """What is a device's own, and goes from task to task: values of the artifact's `local` parts, one after another,
    the optimizer's state, and a personal model beside the one that is shared (a whole vector).
    """

    local: Flat | None = None
    optimizer: OptimizerState | None = None
    personal: Flat | None = None


class TrainResult(Struct, kw_only=True):
    """What a task came to. `delta` = trained − received. Losses are the data's alone: no proximal, no decay
    term.
    """

    delta: Flat
    samples: int
    steps: int
    loss_mean: float
    loss_sum: float
    accuracy: float | None
    step_time_s: float
    wall_s: float
    peak_rss_mb: float
    own: Own = Own()
    local: LocalFigures | None = None  # of the device's own tests, where they are asked for


def batches(
    samples: int, batch_size: int, steps: int, seed: int | Sequence[int], last: LastBatch = "pad"
) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
    """Indices of each step's batch and how many of them count; epochs are reshuffled.

    Order follows from `seed` alone. An epoch's last, smaller batch is padded with the batch's own first indices,
    whose weight is zero; or filled with other samples of the shard, which count, since what a batch's statistics
    are taken over cannot be weighted away; or dropped.
    """
    if last == "drop" and samples < batch_size:
        raise ArtifactError(
            f"{samples} samples, and a last batch below {batch_size} is dropped: nothing is left"
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    done = 0
    while done < steps:
        order = rng.permutation(samples)
        for start in range(0, samples, batch_size):
            if done == steps:
                return
            chosen = order[start : start + batch_size]
            real = len(chosen)
            if real < batch_size and last == "drop":
                continue
            if real < batch_size and last == "fill":
                yield np.resize(np.concatenate([chosen, order[:start]]), batch_size), batch_size
            else:
                yield (np.resize(chosen, batch_size) if real < batch_size else chosen), real
            done += 1


class Trainer:
    """Trains an artifact on a shard. One instance per task keeps memory at its lowest; it may also be used
    again.
    """

    def __init__(self, artifact: TrainingArtifact, shard: Shard, threads: int = 1) -> None:
        self.artifact, self.shard, self.threads = artifact, shard, threads
        want = int(np.prod(artifact.input.shape, dtype=np.int64))
        have = int(np.prod(shard.x.shape[1:], dtype=np.int64))
        if want != have:
            raise ArtifactError(
                f"samples of shape {shard.x.shape[1:]} do not fit the model's input {artifact.input.shape}"
            )
        if artifact.input.dtype in ("uint8", "int32", "int64") and shard.x.dtype.kind not in "ui":
            raise ArtifactError(f"the model is fed {artifact.input.dtype}, the shard holds {shard.x.dtype}")

    def steps(self, spec: TrainingSpec) -> int:
        if spec.local_steps is not None:
            return spec.local_steps
        whole, rest = divmod(len(self.shard), spec.batch_size)
        return spec.local_epochs * (whole + bool(rest and self.last_batch(spec) != "drop"))

    def last_batch(self, spec: TrainingSpec) -> LastBatch:
        """Never padded where a batch's statistics become state."""
        return "fill" if self.artifact.state and spec.last_batch == "pad" else spec.last_batch

    def train(
        self,
        flat_params: Received,
        spec: TrainingSpec,
        seed: int,
        on_step: OnStep | None = None,
        correction: Flat | None = None,
        own: Own = Own(),
        fixed: Sequence[slice] = (),
    ) -> TrainResult:
        """Train from `flat_params` (left untouched) and return the difference.

        The received version is a travelling vector (learning.travelling), float32 or float16; one that travelled as
        float16 is best given as it is, since it stays in memory as the anchor of the difference.

        `correction` is added to every gradient (SCAFFOLD's c − cᵢ, learning.scaffold), a travelling vector, too. `own`:
        what the device kept of earlier tasks, used up by this one; what it is now is in the result, and counts once the
        update does. `fixed`: parts of the whole vector that stay as they are.
        `on_step(step, steps)` is called after every step; False cancels with TrainingCancelled, its own
        exceptions pass through. Raises TrainingDiverged on a NaN or infinite loss, ArtifactError on
        contradictions.
        """
        artifact = self.artifact
        if artifact.local and not artifact.local_values:
            raise ArtifactError("local parameters without first values: prepare the run's folder again")
        began = time.monotonic()
        moving = travelling(artifact)
        work = moving.widen(flat_params)
        put_local(artifact, work, own.local)
        loop = self.fit(
            work, spec, seed, self.steps(spec), anchor=flat_params, on_step=on_step, correction=correction,
            optimizer=own.optimizer, fixed=fixed,
        )  # fmt: skip
        kept = Own(take_local(artifact, work), loop.optimizer.state() if spec.keep else None, own.personal)
        delta = moving.cut(work)
        subtract(delta, flat_params)
        if not is_finite(delta):
            raise TrainingDiverged("the trained parameters are not finite; lower the learning rate")
        return self._result(delta, loop, kept, time.monotonic() - began)

    def _result(self, delta: Flat, loop: Loop, own: Own, wall_s: float) -> TrainResult:
        return TrainResult(
            delta=delta,
            samples=loop.samples,
            steps=len(loop.times),
            loss_mean=loop.loss_sum / loop.samples,
            loss_sum=loop.loss_sum,
            accuracy=loop.correct / loop.samples if self.artifact.counts_correct else None,
            # Not numpy's median: its first call costs an agent 8 MB, at the very peak.
            step_time_s=sorted(loop.times)[len(loop.times) // 2],
            wall_s=wall_s,
            peak_rss_mb=peak_rss_mb(),
            own=own,
        )

    def fit(
        self,
        work: Flat,
        spec: TrainingSpec,
        seed: int | Sequence[int],
        steps: int,
        *,
        anchor: Received,
        on_step: OnStep | None = None,
        correction: Flat | None = None,
        optimizer: OptimizerState | None = None,
        fixed: Sequence[slice] = (),
    ) -> Loop:
        """Train a whole vector in place. `anchor`, a travelling vector, is what a proximal term pulls to."""
        if spec.batch_size != self.artifact.batch_size:
            raise ArtifactError(
                f"artifact prepared for batches of {self.artifact.batch_size}, asked for {spec.batch_size}"
            )
        require_variances(self.artifact, work)
        loop = Loop(self, spec, work, anchor, seed, correction, optimizer, fixed)
        for index, (chosen, real) in enumerate(
            batches(len(self.shard), spec.batch_size, steps, seed, self.last_batch(spec)), start=1
        ):
            loop.step(chosen, real)
            if on_step is not None and on_step(index, steps) is False:
                raise TrainingCancelled(f"cancelled after step {index} of {steps}")
        require_variances(self.artifact, work)
        return loop


def require_variances(artifact: TrainingArtifact, values: Flat) -> None:
    """Raises TrainingDiverged if a running variance is negative or not a number."""
    for part in artifact.variances:
        if not (values[part] >= 0).all():
            raise TrainingDiverged(
                f"a running variance of {float(values[part].min()):.3g}: statistics are never negative"
            )


def _words(seed: int | Sequence[int]) -> Sequence[int]:
    return [seed] if isinstance(seed, int) else seed


class Loop:
    """The state of one stretch of steps: buffers, optimizer, running sums."""

    def __init__(
        self,
        trainer: Trainer,
        spec: TrainingSpec,
        work: Flat,
        anchor: Received,
        seed: int | Sequence[int],
        correction: Flat | None,
        optimizer: OptimizerState | None,
        fixed: Sequence[slice],
    ) -> None:
        self.correction = correction
        self.fixed = [(part, work[part].copy()) for part in fixed]
        self.shard, self.spec, self.work, self.anchor = trainer.shard, spec, work, anchor
        self.grad = np.empty_like(work)
        self.session = StepSession(trainer.artifact, work, self.grad, trainer.threads)
        self.optimizer = OPTIMIZERS[spec.optimizer](work.size, spec)
        if spec.keep and optimizer is not None:
            self.optimizer.take(optimizer)
        self.state = trainer.artifact.state
        # What is the device's own is pulled nowhere and corrected by nothing: nobody else has anything of it.
        self.moving = travelling(trainer.artifact).pairs
        self.noise = np.random.Generator(np.random.PCG64([*_words(seed), NOISE_STREAM]))
        self.samples = 0
        self.loss_sum = self.correct = 0.0
        self.times: list[float] = []

    def step(self, chosen: npt.NDArray[np.int64], real: int) -> None:
        began = time.perf_counter()
        spec, session = self.spec, self.session
        session.x[...] = self.shard.x[chosen].reshape(session.x.shape)
        session.labels[...] = self.shard.y[chosen].reshape(session.labels.shape)
        session.weights[:real] = 1.0
        session.weights[real:] = 0.0
        for noise in session.noise.values():
            self.noise.random(out=noise, dtype=np.float32)
        loss = session.run()
        if not np.isfinite(loss):
            raise TrainingDiverged(
                f"loss {loss} after {len(self.times)} steps; lower the learning rate or clip"
            )
        # New running statistics came where gradients come. They are taken over, and count nothing as
        # gradients.
        kept = [self.grad[part].copy() for part in self.state]
        for whole, moved in self.moving if spec.prox_mu else ():
            add_proximal(self.grad[whole], self.work[whole], self.anchor[moved], spec.prox_mu)
        if self.correction is not None:
            for whole, moved in self.moving:
                self.grad[whole] += self.correction[moved]
        for part in (*self.state, *(part for part, _ in self.fixed)):
            self.grad[part] = 0.0
        if spec.clip_norm is not None:
            clip_by_global_norm(self.grad, spec.clip_norm)
        self.optimizer.step(self.work, self.grad, spec.lr)
        for part, value in (*self.fixed, *zip(self.state, kept, strict=True)):
            self.work[part] = value
        self.loss_sum += loss
        self.correct += float(session.correct)
        self.samples += real
        self.times.append(time.perf_counter() - began)
