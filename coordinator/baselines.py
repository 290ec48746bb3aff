"""Baselines of a run, recomputed in this process from its plan, shards and initial model: no network, faults or codec.

* `fedavg`: synchronous rounds of as many devices as make a version of the run, drawn by the seed; float32 updates; the
  plain mean by samples.
* `centralised`: one training on the union of all training shards; in each round as many gradient steps as FedAvg's
  devices take together, in one go.
* `local_only`: every device alone from the initial model, for as many rounds as FedAvg drew it.

All three take the run's own model, optimizer, batch size and schedule; a proximal term, which ties a device to the
others, is left out. Alone and centralised the optimizer keeps its state from round to round, for nobody takes the model
away. Steps are real ones of `learning.trainer`, so all of them may be compared with the run, and with each other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import msgspec
import numpy as np

from coordinator.config import CoordinatorConfig, from_plan
from coordinator.turn import derive_seed
from history.baselines import Baseline, BaselinePoint, LocalDevice, LocalOnly
from learning.artifact import Flat, TrainingArtifact
from learning.evaluator import Evaluation, Evaluator
from learning.shard import TEST_NAMES, Shard, open_shard
from learning.trainer import Own, Trainer, TrainingDiverged, TrainingSpec, TrainResult
from learning.travelling import put_local, travelling
from topology.plan import Plan

POINTS_MAX = 50  # evaluations of one curve: with a thousand rounds they would cost more than the training
KINDS = ("fedavg", "centralised", "local-only")

Clock = Callable[[], float]
# (kind, round or device, of how many, the newest evaluation if there is one)
Progress = Callable[[str, int, int, Evaluation | None], object]


def _silent(_kind: str, _done: int, _of: int, _found: Evaluation | None) -> None:
    return


class World:
    """The run's folder, opened. Raises DatasetError, ArtifactError, OSError."""

    def __init__(
        self,
        root: Path,
        plan: Plan,
        rounds: int,
        *,
        threads: int = 1,
        stop: Callable[[], bool] = lambda: False,
        progress: Progress = _silent,
        clock: Clock = time.monotonic,
    ) -> None:
        self.root, self.plan, self.rounds, self.threads = root, plan, rounds, threads
        self.stop, self.progress, self.clock = stop, progress, clock
        self.artifact = TrainingArtifact.from_bytes((root / "model" / "artifact.bin").read_bytes())
        initial = np.load(root / "model" / "initial.npy", allow_pickle=False).astype(np.float32)
        self.moving = travelling(self.artifact)
        self.initial: Flat = self.moving.cut(initial)
        self.config: CoordinatorConfig = from_plan(plan, self.moving.size)
        self.devices = [device.name for device in plan.devices]
        self.test = Evaluator(self.artifact, open_shard(root / "shards" / "test"), threads=threads)

    def shard(self, device: str) -> Shard:
        return open_shard(self.root / "shards" / device)

    def spec(self, round_: int, *, steps: int | None = None, keep: bool = False) -> TrainingSpec:
        """Of a round, counted from 1, as the coordinator would have sent it."""
        spec = msgspec.convert(self.config.train_for(round_, round_ - 1), TrainingSpec, from_attributes=True)
        changed = msgspec.structs.replace(spec, prox_mu=0.0, keep=spec.keep or keep)
        return changed if steps is None else msgspec.structs.replace(changed, local_steps=steps)

    def seed(self, *purpose: object) -> int:
        return derive_seed(self.plan.seed, "baseline", *purpose)

    @property
    def cohort(self) -> int:
        """Updates of one version of the run."""
        policy = self.plan.policy
        wanted = policy.buffer if policy.kind in ("buffered", "asynchronous") else policy.cohort
        return max(1, min(wanted, len(self.devices)))

    def cohorts(self) -> Iterator[list[str]]:
        """Who is drawn in each round: the same for every baseline."""
        for round_ in range(1, self.rounds + 1):
            yield Random(self.seed("cohort", round_)).sample(self.devices, self.cohort)

    def steps_of(self, device: str) -> int:
        return Trainer(self.artifact, self.shard(device), self.threads).steps(self.spec(1))

    def due(self, round_: int) -> bool:
        """Whether this round is a point of the curve; the last one always is."""
        return round_ == self.rounds or round_ % math.ceil(self.rounds / POINTS_MAX) == 0

    def own_accuracy(self, device: str, parameters: Flat) -> float | None:
        """On the device's own test split, where the run kept one back."""
        folder = self.root / "shards" / device
        if not (folder / TEST_NAMES[0]).exists():
            return None
        shard = open_shard(folder, TEST_NAMES)
        return Evaluator(self.artifact, shard, threads=self.threads).evaluate(parameters).accuracy


class Learner:
    """A model that is trained task after task, with what belongs to whoever trains it."""

    def __init__(self, world: World, shard: Shard, parameters: Flat) -> None:
        self._trainer = Trainer(world.artifact, shard, world.threads)
        self._world, self.parameters, self.own = world, parameters, Own()
        self.steps = 0

    def train(self, spec: TrainingSpec, seed: int) -> TrainResult:
        """Raises TrainingDiverged."""
        result = self._trainer.train(self.parameters, spec, seed, own=self.own)
        self.own = result.own
        self.steps += result.steps
        return result

    @property
    def whole(self) -> Flat:
        """With the device's own values where the model has local parts."""
        return _with(self._world, self.parameters, self.own)


class Curve:
    """Evaluates what it is shown when a point is due, and says so."""

    def __init__(self, world: World, kind: str) -> None:
        self._world, self._kind, self._began = world, kind, world.clock()
        self.points: list[BaselinePoint] = []
        self.rounds = self.steps = 0
        self._newest: Evaluation | None = None
        self._at = -1

    def show(self, round_: int, steps: int, parameters: Flat) -> None:
        self.rounds, self.steps = round_, steps
        if self._world.due(round_):
            self._evaluate(parameters)
        self._world.progress(self._kind, round_, self._world.rounds, self._newest)

    def _evaluate(self, parameters: Flat) -> Evaluation:
        if self._newest is None or self._at != self.rounds:
            found = self._newest = self._world.test.evaluate(parameters)
            self._at = self.rounds
            self.points.append(
                BaselinePoint(round=self.rounds, steps=self.steps, accuracy=found.accuracy, loss=found.loss)
            )
        return self._newest

    def baseline(
        self, parameters: Flat, note: str, *, uplink_bytes: int = 0, own: float | None = None
    ) -> Baseline:
        last = self._evaluate(parameters)
        metrics = {"f1": last.f1, "mse": last.mse, "perplexity": last.perplexity}
        return Baseline(
            rounds=self.rounds,
            steps=self.steps,
            accuracy=last.accuracy,
            loss=last.loss,
            metrics={name: value for name, value in metrics.items() if value is not None},
            curve=tuple(self.points),
            uplink_bytes=uplink_bytes,
            own_accuracy=own,
            wall_s=round(self._world.clock() - self._began, 3),
            note=note,
        )


STOPPED = "stopped at its time limit"


def fedavg(world: World) -> Baseline:
    """FedAvg (McMahan et al., AISTATS 2017, algorithm 1), uncompressed: x += Σ nᵢ·uᵢ / Σ nᵢ."""
    curve, parameters, note = Curve(world, "fedavg"), world.initial.copy(), ""
    owns: dict[str, Own] = {}
    steps = updates = 0
    for round_, cohort in enumerate(world.cohorts(), 1):
        if world.stop():
            note = STOPPED
            break
        made = _round(world, parameters, round_, cohort, owns)
        if not made.samples:
            note = "every device of a round diverged"
            break
        parameters = (parameters + made.total / made.samples).astype(np.float32)
        steps, updates = steps + made.steps, updates + made.updates
        curve.show(round_, steps, parameters)
    own = _mean(
        [world.own_accuracy(name, _with(world, parameters, owns.get(name))) for name in world.devices]
    )
    return curve.baseline(parameters, note, uplink_bytes=updates * world.moving.size * 4, own=own)


class _Made(NamedTuple):
    total: np.ndarray[tuple[int], np.dtype[np.float64]]
    samples: int
    steps: int
    updates: int


def _round(world: World, parameters: Flat, round_: int, cohort: Sequence[str], owns: dict[str, Own]) -> _Made:
    """One device after the other, so that memory does not grow with the cohort. Who diverges sends nothing."""
    total, samples, steps, updates = np.zeros(parameters.size, np.float64), 0, 0, 0
    for name in cohort:
        learner = Learner(world, world.shard(name), parameters)
        learner.own = owns.get(name, Own())
        try:
            result = learner.train(world.spec(round_), world.seed("train", round_, name))
        except TrainingDiverged:
            continue
        owns[name] = learner.own
        total += result.samples * result.delta.astype(np.float64)
        samples, steps, updates = samples + result.samples, steps + result.steps, updates + 1
    return _Made(total, samples, steps, updates)


def _with(world: World, parameters: Flat, own: Own | None) -> Flat:
    whole = world.moving.widen(parameters)
    put_local(world.artifact, whole, own.local if own is not None else None)
    return whole


def centralised(world: World) -> Baseline:
    shards = [world.shard(name) for name in world.devices]
    union = Shard(np.concatenate([s.x for s in shards]), np.concatenate([s.y for s in shards]))
    steps = {name: world.steps_of(name) for name in world.devices}
    curve, learner = Curve(world, "centralised"), Learner(world, union, world.initial.copy())
    note = ""
    for round_, cohort in enumerate(world.cohorts(), 1):
        if world.stop():
            note = STOPPED
            break
        spec = world.spec(round_, steps=sum(steps[name] for name in cohort), keep=True)
        try:
            learner.parameters = learner.parameters + learner.train(spec, world.seed("central", round_)).delta
        except TrainingDiverged:
            note = "it diverged"
            break
        curve.show(round_, learner.steps, learner.whole)
    own = _mean([world.own_accuracy(name, learner.whole) for name in world.devices])
    return curve.baseline(learner.whole, note, own=own)


def local_only(world: World) -> LocalOnly:
    began, note, found = world.clock(), "", []
    drawn = [list(cohort) for cohort in world.cohorts()]
    for number, name in enumerate(world.devices, 1):
        if world.stop():
            note = STOPPED
            break
        rounds = [round_ for round_, cohort in enumerate(drawn, 1) if name in cohort]
        device, last = _alone(world, name, rounds)
        found.append(device)
        world.progress("local-only", number, len(world.devices), last)
    accuracies = [d.accuracy for d in found if d.accuracy is not None]
    return LocalOnly(
        devices=tuple(found),
        accuracy=_mean(accuracies),
        accuracy_min=min(accuracies, default=None),
        accuracy_max=max(accuracies, default=None),
        loss=_mean([d.loss for d in found]) or 0.0,
        own_accuracy=_mean([d.own_accuracy for d in found]),
        steps=sum(d.steps for d in found),
        wall_s=round(world.clock() - began, 3),
        note=note,
    )


def _alone(world: World, name: str, rounds: Sequence[int]) -> tuple[LocalDevice, Evaluation]:
    """One that diverges counts with the model it had before."""
    learner, done = Learner(world, world.shard(name), world.initial.copy()), 0
    for round_ in rounds:
        try:
            result = learner.train(world.spec(round_, keep=True), world.seed("train", round_, name))
        except TrainingDiverged:
            break
        learner.parameters = learner.parameters + result.delta
        done += 1
    last = world.test.evaluate(learner.whole)
    device = LocalDevice(
        device=name,
        rounds=done,
        steps=learner.steps,
        accuracy=last.accuracy,
        loss=last.loss,
        own_accuracy=world.own_accuracy(name, learner.whole),
    )
    return device, last


def _mean(values: Sequence[float | None]) -> float | None:
    """Of those that are known; None when none is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
