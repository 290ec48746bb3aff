"""Data and local training."""

from __future__ import annotations

from topology.checks import samples_per_device
from topology.plan import DataPlan, OptimizerPlan, PartitionPlan, TrainingPlan
from topology.schema import Topology


def compile_data(topology: Topology) -> DataPlan:
    given = topology.data.partition
    default = PartitionPlan(kind=given.kind)
    partition = PartitionPlan(
        kind=given.kind,
        alpha=given.alpha if given.alpha is not None else default.alpha,
        shards_per_device=given.shards_per_device
        if given.shards_per_device is not None
        else default.shards_per_device,
    )
    return DataPlan(
        dataset=topology.data.dataset, partition=partition, samples_per_device=samples_per_device(topology)
    )


def compile_training(topology: Topology) -> TrainingPlan:
    given, optimizer = topology.training, topology.training.optimizer
    return TrainingPlan(
        rounds=given.rounds,
        local_epochs=given.local_epochs,
        batch_size=given.batch_size,
        optimizer=OptimizerPlan(
            kind=optimizer.kind,
            lr=optimizer.lr,
            momentum=optimizer.momentum,
            nesterov=optimizer.nesterov,
            weight_decay=optimizer.weight_decay,
        ),
        stop_at_accuracy=given.stop_at_accuracy,
    )
