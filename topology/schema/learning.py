"""Local training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from topology.fields import Strict


class Optimizer(Strict):
    """Local optimisation, with PyTorch's definitions. Its state starts at zero in every task unless `keep`."""

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[float | None, Field(gt=0, le=100, description="0.05 for sgd, 0.001 for adam.")] = None
    momentum: Annotated[float | None, Field(ge=0, lt=1, description="sgd: 0 by default.")] = None
    nesterov: bool = False
    weight_decay: Annotated[
        float, Field(ge=0, le=1, description="adamw applies it to the parameters, the others to gradients.")
    ] = 0.0
    beta1: Annotated[float | None, Field(ge=0, lt=1, description="adam: 0.9 by default.")] = None
    beta2: Annotated[float | None, Field(ge=0, lt=1, description="adam: 0.999 by default.")] = None
    epsilon: Annotated[float | None, Field(gt=0, le=1, description="adam: 1e-8 by default.")] = None
    keep: Annotated[
        bool, Field(description="A device keeps momentum and moments on its disk from task to task.")
    ] = False


class Schedule(Strict):
    """How the learning rate changes over the run."""

    kind: Literal["constant", "step", "exponential", "cosine", "inverse_sqrt"] = "constant"
    by: Annotated[
        Literal["round", "version"], Field(description="What is counted: rounds, or versions of the model.")
    ] = "round"
    factor: Annotated[
        float | None, Field(gt=0, le=1, description="step, exponential, cosine: 0.5 by default.")
    ] = None
    period: Annotated[int | None, Field(ge=1, le=100_000, description="10 by default.")] = None
    warmup: Annotated[int, Field(ge=0, le=10_000, description="Rounds or versions of linear rise.")] = 0


class Training(Strict):
    """What a device does in a round, and when the run ends."""

    rounds: Annotated[int, Field(ge=1, le=100_000)]
    local_epochs: Annotated[int | None, Field(ge=1, le=1000, description="1 by default.")] = None
    local_steps: Annotated[
        int | None, Field(ge=1, le=1_000_000, description="Steps instead of epochs, whatever a device has.")
    ] = None
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    last_batch: Annotated[
        Literal["pad", "fill", "drop"] | None,
        Field(
            description="An epoch's last, smaller batch: padded with weight zero (default), filled with other "
            "samples (default with BatchNorm, where padding would enter the statistics), or left out."
        ),
    ] = None
    optimizer: Optimizer = Optimizer()
    clip_norm: Annotated[float | None, Field(gt=0, le=1e6, description="Of the whole gradient.")] = None
    schedule: Schedule = Schedule()
    proximal: Annotated[
        float, Field(ge=0, le=1000, description="FedProx's µ: pulls towards the version that was received.")
    ] = 0.0
    stop_at_accuracy: Annotated[
        float | None,
        Field(gt=0, lt=1, description="End before the last round when the test accuracy is reached."),
    ] = None
