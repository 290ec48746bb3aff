"""Who gets which samples: pure functions from labels to lists of indices.

Every partition is seeded, disjoint and leaves no device empty; the same arguments give the same indices on
every platform (numpy's PCG64 is specified bit by bit).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from learning.datasets.base import Dataset

Indices = npt.NDArray[np.int64]
Labels = npt.NDArray[Any]


class PartitionError(ValueError):
    """The data cannot be divided as asked. The message says how much there is and how much is needed."""


@dataclass(frozen=True)
class Partition:
    """One index array per device, in device order."""

    kind: str
    devices: tuple[Indices, ...]

    def histograms(self, labels: Labels, classes: int) -> npt.NDArray[np.int64]:
        """Label counts, shape [devices, classes]."""
        return np.stack([np.bincount(labels[chosen], minlength=classes) for chosen in self.devices]).astype(
            np.int64
        )


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _require(labels: Labels, devices: int, each: int, unit: str = "samples") -> None:
    if devices < 1 or each < 1:
        raise PartitionError(f"{devices} devices with {each} {unit} each: both must be at least 1")
    if devices * each > len(labels):
        raise PartitionError(
            f"{devices} devices × {each} {unit} need {devices * each}, the data set has {len(labels)}: "
            "use fewer devices, fewer samples per device or a larger data set"
        )


def iid(labels: Labels, devices: int, samples_per_device: int, seed: int) -> Partition:
    """A random draw without replacement, equal sizes."""
    _require(labels, devices, samples_per_device)
    order = _generator(seed).permutation(len(labels))[: devices * samples_per_device]
    return Partition("iid", tuple(np.sort(part) for part in order.reshape(devices, samples_per_device)))


def dirichlet(
    labels: Labels, devices: int, samples_per_device: int, seed: int, alpha: float = 0.5
) -> Partition:
    """Equal sizes, label shares of each device drawn from Dirichlet(α·prior) (Hsu et al. 2019,
    arXiv:1909.06335).

    Where a class runs out, what is missing is drawn from the classes that are left, in proportion to the
    device's own shares and to what is left of each. Devices are served in a random order, so that none is
    always last.
    """
    if not alpha > 0 or not np.isfinite(alpha):
        raise PartitionError(f"alpha must be a number above 0, got {alpha}")
    _require(labels, devices, samples_per_device)
    rng = _generator(seed)
    classes, counts = np.unique(labels, return_counts=True)
    pools = [list(rng.permutation(np.flatnonzero(labels == c))) for c in classes]
    shares = rng.dirichlet(alpha * counts / counts.sum() * len(classes), size=devices)
    chosen: dict[int, Indices] = {}
    for device in rng.permutation(devices):
        quota = _quota(shares[device], np.array([len(pool) for pool in pools]), samples_per_device, rng)
        taken = [pool.pop() for pool, count in zip(pools, quota, strict=True) for _ in range(count)]
        chosen[int(device)] = np.sort(np.asarray(taken, np.int64))
    return Partition("dirichlet", tuple(chosen[device] for device in range(devices)))


def _quota(
    share: npt.NDArray[np.float64], left: npt.NDArray[np.int64], want: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """How many of each class: `want` in all, at most what is left."""
    quota = np.zeros(len(left), np.int64)
    while (missing := want - int(quota.sum())) > 0:
        free = left - quota
        weight = np.where(free > 0, np.maximum(share, 1e-12), 0.0)
        if share[free > 0].max() < 1e-9:  # its own classes are used up: take from what the data still has
            weight = np.where(free > 0, free.astype(np.float64), 0.0)
        quota += np.minimum(rng.multinomial(missing, weight / weight.sum()), free)
    return quota


def shards(
    labels: Labels, devices: int, samples_per_device: int, seed: int, shards_per_device: int = 2
) -> Partition:
    """Sort by label, cut into equal shards, deal `shards_per_device` to each (McMahan et al. 2017, section
    3).

    `samples_per_device` is met up to rounding down to a multiple of `shards_per_device`.
    """
    if shards_per_device < 1:
        raise PartitionError(f"shards_per_device must be at least 1, got {shards_per_device}")
    size = samples_per_device // shards_per_device
    _require(labels, devices * shards_per_device, size, "samples (one shard)")
    rng = _generator(seed)
    # Shuffled before the stable sort: which samples of a class meet in a shard is random, their label is not.
    mixed = rng.permutation(len(labels))
    by_label = mixed[np.argsort(labels[mixed], kind="stable")]
    total = devices * shards_per_device
    starts = (
        np.linspace(0, len(labels) - size, total).astype(np.int64) if total > 1 else np.zeros(1, np.int64)
    )
    dealt = rng.permutation(total).reshape(devices, shards_per_device)
    parts = [np.concatenate([by_label[starts[s] : starts[s] + size] for s in row]) for row in dealt]
    return Partition("shards", tuple(np.sort(part) for part in parts))


PARTITIONS: dict[str, Callable[..., Partition]] = {"iid": iid, "dirichlet": dirichlet, "shards": shards}


def write_shards(
    dataset: Dataset, partition: Partition, names: Sequence[str], out: str | Path
) -> npt.NDArray[np.int64]:
    """Write `<out>/<device>/{x,y}.npy` for each device and `<out>/test/{x,y}.npy`; return the label
    histograms.

    The test data is for the coordinator only: it is never mounted into an agent.
    """
    if len(names) != len(partition.devices) or len(set(names)) != len(names) or "test" in names:
        raise PartitionError(f"{len(partition.devices)} shards need as many distinct names other than 'test'")
    out = Path(out)
    for name, chosen in zip(names, partition.devices, strict=True):
        _write(out / name, dataset.train_x[chosen], dataset.train_y[chosen])
    _write(out / "test", dataset.test_x, dataset.test_y)
    return partition.histograms(dataset.train_y, dataset.classes)


def _write(folder: Path, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "x.npy", np.ascontiguousarray(x))
    np.save(folder / "y.npy", y if y.dtype.kind == "f" else y.astype(np.int64))
