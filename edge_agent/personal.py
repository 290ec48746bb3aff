"""The part of a task that a device does for itself: its personal model, and tests on its own data.

What is kept of it is kept with the update (edge_agent.own), so a task that comes to nothing leaves nothing behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from wire import messages as m

if TYPE_CHECKING:
    from learning.personal import Kind, LocalTask
    from learning.shard import Shard
    from learning.trainer import OnStep, Own, Received, Trainer


class UnknownKind(ValueError):
    """A kind of personalisation that this version of the agent does not know."""


def kind_of(spec: m.TrainSpec) -> Kind | None:
    """None for a task without. Raises UnknownKind."""
    from learning.personal import KINDS

    if spec.personal is None:
        return None
    found = KINDS.get(spec.personal.kind)
    if found is None:
        raise UnknownKind(f"personalisation {spec.personal.kind!r}: this device knows {', '.join(KINDS)}")
    return found


def task_of(
    spec: m.TrainSpec,
    trainer: Trainer,
    received: Received,
    seed: int,
    own: Own,
    test: Shard | None,
    on_step: OnStep,
) -> LocalTask:
    from learning.personal import LocalTask
    from learning.trainer import TrainingSpec

    return LocalTask(
        trainer=trainer,
        received=received,
        spec=msgspec.convert(spec, TrainingSpec, from_attributes=True),
        seed=seed,
        options=spec.personal or m.Personal(kind="none"),
        own=own,
        test=test,
        on_step=on_step,
    )
