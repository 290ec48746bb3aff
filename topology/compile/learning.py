"""Data, model and local training."""

from __future__ import annotations

from typing import Any

from topology.checks import samples_per_device
from topology.names import PARTITIONS
from topology.plan import DataPlan, ModelPlan, OptimizerPlan, PartitionPlan, SchedulePlan, TrainingPlan
from topology.schema import Topology

LR = {"sgd": 0.05, "adam": 0.001, "adamw": 0.001}


def _given(**values: Any) -> dict[str, Any]:
    """Keys that the file leaves out have their default in the plan."""
    return {key: value for key, value in values.items() if value is not None}


def compile_data(topology: Topology) -> DataPlan:
    data, partition = topology.data, topology.data.partition
    kind = partition.kind
    if kind == "dirichlet" and partition.sizes == "free":
        kind = "dirichlet-free"
    options = _given(
        alpha=partition.alpha,
        least=partition.least,
        shards_per_device=partition.shards_per_device,
        exponent=partition.exponent,
        drift=partition.drift,
    )
    return DataPlan(
        dataset=data.dataset,
        name=data.name,
        partition=PartitionPlan(
            kind=kind, options=options if partition.kind in PARTITIONS else {**partition.options}
        ),
        samples_per_device=samples_per_device(topology),
        options=_dataset_options(topology),
        local_test=data.local_test or 0.0,
    )


def _dataset_options(topology: Topology) -> dict[str, float | int | str | bool]:
    """Sensors: as many users as there are devices, and what the run's seed says, unless it is written."""
    options = dict(topology.data.options)
    if topology.data.dataset == "sensors":
        options = {"users": len(topology.device_names), "seed": topology.seed, **options}
        if topology.data.samples_per_device is not None:
            options.setdefault("per_user", topology.data.samples_per_device)
    return options


def compile_model(topology: Topology) -> ModelPlan:
    given = topology.model
    return ModelPlan(
        source=given.source,
        loss=given.head,
        label_smoothing=given.label_smoothing,
        trainable=None if given.trainable is None else tuple(given.trainable),
        batch_norm=given.batch_norm,
        dropout=given.dropout,
        input_dtype=given.input.dtype,
        input_scale=given.input.scale,
        input_offset=given.input.offset,
        dims=dict(given.dims),
    )


def compile_training(topology: Topology) -> TrainingPlan:
    given, optimizer, schedule = topology.training, topology.training.optimizer, topology.training.schedule
    statistics = topology.model.batch_norm != "frozen"
    return TrainingPlan(
        rounds=given.rounds,
        local_epochs=given.local_epochs or 1,
        local_steps=given.local_steps,
        batch_size=given.batch_size,
        last_batch=given.last_batch or ("fill" if statistics else "pad"),
        optimizer=OptimizerPlan(
            kind=optimizer.kind,
            lr=optimizer.lr or LR[optimizer.kind],
            nesterov=optimizer.nesterov,
            weight_decay=optimizer.weight_decay,
            keep=optimizer.keep,
            **_given(
                momentum=optimizer.momentum,
                beta1=optimizer.beta1,
                beta2=optimizer.beta2,
                epsilon=optimizer.epsilon,
            ),
        ),
        clip_norm=given.clip_norm,
        schedule=SchedulePlan(
            kind=schedule.kind,
            by=schedule.by,
            warmup=schedule.warmup,
            **_given(factor=schedule.factor, period=schedule.period),
        ),
        proximal=given.proximal,
        stop_at_accuracy=given.stop_at_accuracy,
    )
