"""What every device gets of the data: from a plan's words to shards on disk, and the table that says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from learning import datasets
from learning.datasets.base import Dataset
from learning.drift import see
from learning.partition import PARTITIONS, Labels, Partition, PartitionError, local_split, partition_kinds
from learning.shard import TEST_NAMES, TRAIN_NAMES
from topology.allotment import Allotment, Share
from topology.plan import DataPlan, Plan

CLASSES_SHOWN_MAX = 100  # columns of the table; a vocabulary is no set of classes
DECILES = 10  # float labels are divided by tenths of their range of values


def load_dataset(plan: DataPlan, data_dir: str | Path | None) -> Dataset:
    """Raises DatasetError."""
    return datasets.load(plan.dataset, data_dir, plan.options)


def samples_each(plan: Plan, dataset: Dataset) -> int:
    """As many as the plan says, else an equal share."""
    wanted = plan.data.samples_per_device
    return wanted if wanted is not None else max(1, len(dataset.train_y) // len(plan.devices))


def partition_of(plan: Plan, dataset: Dataset) -> Partition:
    """Who gets which training samples, as the plan says. Raises PartitionError."""
    kind, options = plan.data.partition.kind, plan.data.partition.options
    kinds = partition_kinds()
    if kind not in kinds:
        raise PartitionError(f"there is no partition {kind!r}: choose one of {', '.join(sorted(kinds))}")
    used = {key: value for key, value in options.items() if not (kind == "feature-drift" and key == "drift")}
    labels = _users(dataset) if kind == "natural" else grouping(dataset)
    make = PARTITIONS["iid"] if kind == "feature-drift" else kinds[kind]
    try:
        made = make(labels, len(plan.devices), samples_each(plan, dataset), plan.seed, **used)
    except TypeError as error:
        raise PartitionError(f"partition {kind}: {error}") from error
    return Partition(kind, made.devices, made.notes)


def grouping(dataset: Dataset) -> Labels:
    """What "label" means to a partition: the class; for a regression the tenth its value lies in; for sequences who
    they are from.
    """
    y = dataset.train_y
    if y.ndim == 1 and y.dtype.kind in "ui":
        return y
    if y.ndim == 1 or (y.ndim == 2 and y.shape[1] == 1):
        flat = np.asarray(y, np.float64).reshape(-1)
        return np.searchsorted(np.quantile(flat, np.linspace(0, 1, DECILES + 1)[1:-1]), flat)
    return dataset.users if dataset.users is not None else np.zeros(len(y), np.int64)


def _users(dataset: Dataset) -> npt.NDArray[np.int64]:
    if dataset.users is None:
        raise PartitionError(
            f"{dataset.name} does not say who its samples are from: a natural partition needs a column `user`"
        )
    return dataset.users


def split(plan: Plan, partition: Partition) -> tuple[Partition, Partition | None]:
    """Training part and the part each device keeps back for its own tests."""
    if not plan.data.local_test:
        return partition, None
    train, test = local_split(partition, plan.data.local_test, plan.seed)
    return Partition(train.kind, train.devices, partition.notes), test


@dataclass(frozen=True)
class Allotted:
    """Indices per device of the training data, for training and for the device's own tests; and the table of it."""

    train: Partition
    test: Partition | None
    table: Allotment


def divide(plan: Plan, dataset: Dataset) -> Allotted:
    """Raises PartitionError."""
    train, test = split(plan, partition_of(plan, dataset))
    shares = [
        _share(device.name, dataset, train.devices[number], len(test.devices[number]) if test else 0)
        for number, device in enumerate(plan.devices)
    ]
    table = Allotment(
        dataset=plan.data.name or dataset.name,
        origin=dataset.origin,
        partition=describe(plan.data),
        test_samples=len(dataset.test_y),
        shares=tuple(shares),
        notes=train.notes,
    )
    return Allotted(train, test, table)


def allot(plan: Plan, data_dir: str | Path | None) -> Allotment:
    """The table alone. Raises DatasetError, PartitionError."""
    return divide(plan, load_dataset(plan.data, data_dir)).table


def write(plan: Plan, dataset: Dataset, folder: Path) -> Allotment:
    """Write `<folder>/<device>/` with x.npy, y.npy (and x_test.npy, y_test.npy), and `<folder>/test/` for the
    coordinator alone. Raises PartitionError.
    """
    made, drift = divide(plan, dataset), _drift(plan)
    for number, device in enumerate(plan.devices):
        parts = [(TRAIN_NAMES, made.train.devices[number])]
        if made.test is not None:
            parts.append((TEST_NAMES, made.test.devices[number]))
        for names, chosen in parts:
            x = dataset.train_x[chosen]
            x = see(x, drift, plan.seed, number) if drift else x
            save(folder / device.name, names, x, dataset.train_y[chosen])
    save(folder / "test", TRAIN_NAMES, dataset.test_x, dataset.test_y)
    return made.table


def _drift(plan: Plan) -> float:
    partition = plan.data.partition
    return float(partition.options.get("drift", 0.5)) if partition.kind == "feature-drift" else 0.0


def describe(data: DataPlan) -> str:
    options = ", ".join(f"{key} {value}" for key, value in sorted(data.partition.options.items()))
    return f"{data.partition.kind} ({options})" if options else data.partition.kind


def _share(name: str, dataset: Dataset, chosen: npt.NDArray[np.int64], held: int) -> Share:
    y = dataset.train_y[chosen]
    classes: tuple[int, ...] = ()
    if 0 < dataset.classes <= CLASSES_SHOWN_MAX and y.ndim == 1 and y.dtype.kind in "ui":
        classes = tuple(int(count) for count in np.bincount(y, minlength=dataset.classes))
    mean = round(float(np.mean(y)), 6) if y.dtype.kind == "f" else None
    return Share(device=name, samples=len(chosen), test_samples=held, classes=classes, label_mean=mean)


def save(folder: Path, names: tuple[str, str], x: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / names[0], np.ascontiguousarray(x))
    np.save(folder / names[1], y if y.dtype.kind == "f" else y.astype(np.int64))
