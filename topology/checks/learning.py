"""Data and training against the fleet."""

from __future__ import annotations

from collections.abc import Iterator

from topology.checks.registry import Problem, check
from topology.schema import Topology

# Training images per dataset (learning.datasets holds the same, and refuses a folder that has fewer).
TRAIN_SAMPLES = {"mnist": 60_000, "mnist-mini": 10_000}


PARAMETERS = {"cnn": 1_663_370, "mlp": 199_210}


@check("devices", "data")
def data_suffice(topology: Topology) -> Iterator[Problem]:
    devices, data = len(topology.device_names), topology.data
    available = TRAIN_SAMPLES[data.dataset]
    if devices > available:
        yield Problem(
            ("devices",),
            f"{devices} devices, but {data.dataset} has only {available} training samples",
            value=devices,
        )
    elif data.samples_per_device is not None and devices * data.samples_per_device > available:
        yield Problem(
            ("data", "samples_per_device"),
            f"{devices} devices need {devices * data.samples_per_device} samples of {available}",
            f"at most {available // devices}",
        )


@check("data")
def partition_keys_fit_kind(topology: Topology) -> Iterator[Problem]:
    partition = topology.data.partition
    for key, kind in (("alpha", "dirichlet"), ("shards_per_device", "shards")):
        if getattr(partition, key) is not None and partition.kind != kind:
            yield Problem(
                ("data", "partition", key), f"belongs to kind: {kind}, not to {partition.kind}", "remove it"
            )


@check("devices", "data", "training")
def batch_fits_shard(topology: Topology) -> Iterator[Problem]:
    samples = samples_per_device(topology)
    if 0 < samples < topology.training.batch_size:
        yield Problem(
            ("training", "batch_size"), f"a device has only {samples} samples", f"at most {samples}"
        )


@check("training")
def nesterov_needs_momentum(topology: Topology) -> Iterator[Problem]:
    optimizer = topology.training.optimizer
    if optimizer.nesterov and optimizer.momentum == 0:
        yield Problem(
            ("training", "optimizer", "nesterov"), "Nesterov's method needs momentum", "add momentum: 0.9"
        )


def samples_per_device(topology: Topology) -> int:
    """Training samples of each device: as written, or an equal share of the dataset."""
    data = topology.data
    if data.samples_per_device is not None:
        return data.samples_per_device
    return TRAIN_SAMPLES[data.dataset] // len(topology.device_names)
