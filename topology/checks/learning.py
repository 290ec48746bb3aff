"""Data, model and training against each other and the fleet. What needs the data or the graph is checked when the run
is prepared (`compose.prepare`), before any device starts.
"""

from __future__ import annotations

from collections.abc import Iterator

from topology.checks.registry import Problem, check
from topology.names import PARTITIONS, TRAIN_SAMPLES
from topology.schema import Topology

# key of a partition → the kinds it belongs to
_PARTITION_KEYS = {
    "alpha": ("dirichlet",),
    "sizes": ("dirichlet",),
    "least": ("dirichlet",),
    "shards_per_device": ("shards",),
    "exponent": ("quantity",),
    "drift": ("feature-drift",),
}
_OPTIMIZER_KEYS = {
    "momentum": ("sgd",),
    "beta1": ("adam", "adamw"),
    "beta2": ("adam", "adamw"),
    "epsilon": ("adam", "adamw"),
}


@check("devices", "data")
def data_suffice(topology: Topology) -> Iterator[Problem]:
    devices, data = len(topology.device_names), topology.data
    available = TRAIN_SAMPLES.get(data.dataset)
    if available is None:
        return
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
    for key, kinds in _PARTITION_KEYS.items():
        if getattr(partition, key) is not None and partition.kind not in kinds:
            yield Problem(
                ("data", "partition", key),
                f"belongs to kind: {kinds[0]}, not to {partition.kind}",
                "remove it",
            )
    if partition.least is not None and partition.kind == "dirichlet" and partition.sizes != "free":
        yield Problem(("data", "partition", "least"), "belongs to sizes: free", "add sizes: free")
    if partition.options and partition.kind in PARTITIONS:
        yield Problem(("data", "partition", "options"), f"{partition.kind} is no plug-in", "remove it")


@check("data")
def options_fit_dataset(topology: Topology) -> Iterator[Problem]:
    data = topology.data
    if data.options and data.dataset in ("mnist", "mnist-mini"):
        yield Problem(("data", "options"), f"{data.dataset} has no options", "remove it")


@check("devices", "data", "training")
def batch_fits_shard(topology: Topology) -> Iterator[Problem]:
    samples = samples_per_device(topology)
    if samples is not None and 0 < samples < topology.training.batch_size:
        yield Problem(
            ("training", "batch_size"), f"a device has only {samples} samples", f"at most {samples}"
        )


@check("training")
def optimizer_keys_fit_kind(topology: Topology) -> Iterator[Problem]:
    optimizer = topology.training.optimizer
    path = ("training", "optimizer")
    for key, kinds in _OPTIMIZER_KEYS.items():
        if getattr(optimizer, key) is not None and optimizer.kind not in kinds:
            yield Problem((*path, key), f"belongs to kind: {kinds[0]}, not to {optimizer.kind}", "remove it")
    if not optimizer.nesterov:
        return
    if optimizer.kind != "sgd":
        yield Problem((*path, "nesterov"), f"belongs to kind: sgd, not to {optimizer.kind}", "remove it")
    elif not optimizer.momentum:
        yield Problem((*path, "nesterov"), "Nesterov's method needs momentum", "add momentum: 0.9")


@check("training")
def epochs_or_steps(topology: Topology) -> Iterator[Problem]:
    training = topology.training
    if training.local_steps is not None and training.local_epochs is not None:
        yield Problem(("training", "local_steps"), "either epochs or steps", "remove local_epochs")


@check("training")
def schedule_keys_fit_kind(topology: Topology) -> Iterator[Problem]:
    schedule = topology.training.schedule
    unused = {"constant": ("factor", "period"), "inverse_sqrt": ("factor",)}.get(schedule.kind, ())
    for key in unused:
        if getattr(schedule, key) is not None:
            yield Problem(("training", "schedule", key), f"{schedule.kind} has none", "remove it")


@check("model", "training")
def statistics_need_whole_batches(topology: Topology) -> Iterator[Problem]:
    if topology.model.batch_norm != "frozen" and topology.training.last_batch == "pad":
        yield Problem(
            ("training", "last_batch"),
            "padding would enter the batch's statistics, whatever its weight",
            "fill or drop",
        )


@check("model")
def smoothing_needs_cross_entropy(topology: Topology) -> Iterator[Problem]:
    model = topology.model
    if model.label_smoothing and model.head != "softmax_cross_entropy":
        yield Problem(
            ("model", "label_smoothing"), "belongs to loss: softmax_cross_entropy", "remove it, or 0"
        )


@check("model", "training")
def accuracy_needs_classes(topology: Topology) -> Iterator[Problem]:
    if topology.training.stop_at_accuracy is not None and topology.model.head == "mean_squared_error":
        yield Problem(("training", "stop_at_accuracy"), "a regression has no accuracy", "remove it")


def samples_per_device(topology: Topology) -> int | None:
    """Training samples of each device (the mean where sizes differ): as written, or an equal share; None if only the
    data set itself can tell.
    """
    data = topology.data
    if data.samples_per_device is not None:
        return data.samples_per_device
    available = TRAIN_SAMPLES.get(data.dataset)
    return None if available is None else available // len(topology.device_names)
