"""What every kind of personalisation works with: one task on one device, and the protocol of a kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import msgspec

from learning.artifact import Flat
from learning.shard import Shard
from learning.trainer import OnStep, Own, Received, Trainer, TrainingCancelled, TrainingSpec
from learning.travelling import put_local, travelling
from wire.messages import Personal

PERSONAL_STREAM = 3  # second word of the seed: the personal part draws batches of its own


class Made(NamedTuple):
    """A personal model, a whole vector, and what the device keeps once the update counts."""

    model: Flat
    own: Own


class Kind(Protocol):
    """One way to have a model of one's own. Without state: everything is in the task."""

    @property
    def heads(self) -> bool:
        """Whether named parameters stay on the devices: then the version alone is no model."""

    @property
    def head_is_fixed(self) -> bool:
        """Whether the device's own parameters rest while those that travel are trained."""

    def steps(self, task: LocalTask) -> int:
        """How many steps `make` takes: for the progress that a device shows."""

    def make(self, task: LocalTask) -> Made:
        """The personal model that a device has of the version received. Training for the update comes after it."""


@dataclass
class LocalTask:
    """`received`: the version, a travelling vector. `test`: the device's own test data, if it has any."""

    trainer: Trainer
    received: Received
    spec: TrainingSpec
    seed: int
    options: Personal
    own: Own = field(default_factory=Own)
    test: Shard | None = None
    correction: Flat | None = None  # SCAFFOLD's, of the update's gradients alone
    on_step: OnStep | None = None
    steps_done: int = 0
    steps_total: int = 0

    def whole(self) -> Flat:
        """A copy of the version with the device's own parameters in it."""
        artifact = self.trainer.artifact
        model = travelling(artifact).widen(self.received)
        put_local(artifact, model, self.own.local)
        return model

    def personal_steps(self) -> int:
        return self.options.steps or self.trainer.steps(self.spec)

    def fit(self, model: Flat, *, proximal: float = 0.0, only_local: bool = False) -> None:
        """Train a whole vector in place for `personal_steps`, with the task's optimizer and a fresh state of it."""
        spec = msgspec.structs.replace(self.spec, prox_mu=proximal, keep=False)
        fixed = [pair.whole for pair in travelling(self.trainer.artifact).pairs] if only_local else []
        steps = self.personal_steps()
        self.trainer.fit(
            model, spec, [self.seed, PERSONAL_STREAM], steps, anchor=self.received, on_step=self.tell, fixed=fixed
        )  # fmt: skip
        self.steps_done += steps

    def tell(self, step: int, _steps: int) -> bool:
        """Progress of everything this task does, whichever part of it."""
        if self.on_step is not None and self.on_step(self.steps_done + step, self.steps_total) is False:
            raise TrainingCancelled(f"cancelled after step {self.steps_done + step} of {self.steps_total}")
        return True
