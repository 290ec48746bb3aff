"""Data and local training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from topology.fields import Strict


class Partition(Strict):
    """How the training data are spread: evenly at random, by Dirichlet over labels (equal sizes), or by label
    shards.
    """

    kind: Literal["iid", "dirichlet", "shards"] = "iid"
    alpha: Annotated[
        float | None, Field(gt=0, le=1000, description="dirichlet: small is skewed; 0.5 by default.")
    ] = None
    shards_per_device: Annotated[int | None, Field(ge=1, le=100, description="shards: 2 by default.")] = None


class Data(Strict):
    """`mnist` is read from the folder EDGERIG_DATA; `mnist-mini` ships with EdgeRig."""

    dataset: Literal["mnist", "mnist-mini"]
    partition: Partition = Partition()
    samples_per_device: Annotated[
        int | None, Field(ge=1, le=1_000_000, description="An equal share of the training data by default.")
    ] = None


class Optimizer(Strict):
    """Local stochastic gradient descent."""

    kind: Literal["sgd"] = "sgd"
    lr: Annotated[float, Field(gt=0, le=100)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0


class Training(Strict):
    """What a device does in a round, and when the run ends."""

    rounds: Annotated[int, Field(ge=1, le=100_000)]
    local_epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    optimizer: Optimizer = Optimizer()
    stop_at_accuracy: Annotated[
        float | None,
        Field(gt=0, lt=1, description="End before the last round when the test accuracy is reached."),
    ] = None
