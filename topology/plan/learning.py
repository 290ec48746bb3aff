"""Data, model and local training, resolved."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

Option = float | int | str | bool


class PartitionPlan(Struct, frozen=True, kw_only=True):
    """`kind` is a name of `learning.partition.PARTITIONS`, `options` the keywords of its function."""

    kind: str = "iid"
    options: dict[str, Option] = field(default_factory=dict)


class DataPlan(Struct, frozen=True, kw_only=True):
    """`dataset`: a name or a path. `samples_per_device` None: an equal share of what the data set has."""

    dataset: str
    partition: PartitionPlan
    samples_per_device: int | None = None
    options: dict[str, Option] = field(default_factory=dict)
    local_test: float = 0.0
    name: str = ""


class ModelPlan(Struct, frozen=True, kw_only=True):
    """How the training graph is derived. `source`: a name or a path; an empty one is the plan's `model`."""

    source: str = ""
    loss: str = "softmax_cross_entropy"
    label_smoothing: float = 0.0
    trainable: tuple[str, ...] | None = None
    batch_norm: Literal["frozen", "train", "local"] = "frozen"
    dropout: bool = False
    input_dtype: Literal["uint8", "float32", "int64", "int32"] | None = None
    input_scale: float | None = None
    input_offset: float = 0.0
    dims: dict[str, int] = field(default_factory=dict)


class OptimizerPlan(Struct, frozen=True, kw_only=True):
    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.05
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    keep: bool = False

    @property
    def vectors(self) -> int:
        """Vectors of state beside the parameters."""
        return 2 if self.kind != "sgd" else 1 if self.momentum else 0


class SchedulePlan(Struct, frozen=True, kw_only=True):
    kind: str = "constant"
    by: Literal["round", "version"] = "round"
    factor: float = 0.5
    period: int = 10
    warmup: int = 0


class TrainingPlan(Struct, frozen=True, kw_only=True):
    rounds: int
    local_epochs: int = 1
    local_steps: int | None = None
    batch_size: int = 16
    last_batch: Literal["pad", "fill", "drop"] = "pad"
    optimizer: OptimizerPlan = field(default_factory=OptimizerPlan)
    clip_norm: float | None = None
    schedule: SchedulePlan = field(default_factory=SchedulePlan)
    proximal: float = 0.0
    stop_at_accuracy: float | None = None
