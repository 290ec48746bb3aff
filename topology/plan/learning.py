"""Data, model and local training, resolved."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field


class PartitionPlan(Struct, frozen=True, kw_only=True):
    kind: Literal["iid", "dirichlet", "shards"] = "iid"
    alpha: float = 0.5
    shards_per_device: int = 2


class DataPlan(Struct, frozen=True, kw_only=True):
    dataset: str
    partition: PartitionPlan
    samples_per_device: int


class OptimizerPlan(Struct, frozen=True, kw_only=True):
    kind: Literal["sgd"] = "sgd"
    lr: float = 0.05
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0


class TrainingPlan(Struct, frozen=True, kw_only=True):
    rounds: int
    local_epochs: int = 1
    batch_size: int = 16
    optimizer: OptimizerPlan = field(default_factory=OptimizerPlan)
    stop_at_accuracy: float | None = None
