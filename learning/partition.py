"""Who gets which samples: pure functions from labels to lists of indices.

Every partition is seeded, disjoint and leaves no device empty; the same arguments give the same indices on
every platform (numpy's PCG64 is specified bit by bit).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Labels = npt.NDArray[Any]


class PartitionError(ValueError):
    """The data cannot be divided as asked. The message says how much there is and how much is needed."""


@dataclass(frozen=True)
class Partition:
    """One index array per device, in device order."""

    kind: str
    devices: tuple[Indices, ...]
    notes: tuple[str, ...] = ()

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


def dirichlet_free(
    labels: Labels, devices: int, samples_per_device: int, seed: int, alpha: float = 0.5, least: int = 10
) -> Partition:
    """Free sizes: each class is divided among the devices by Dirichlet(α) (Yurochkin et al. 2019,
    arXiv:1905.12022).

    `samples_per_device` is the mean. Draws that leave a device fewer than `least` samples are repeated, at
    most REDRAWS times; then the smallest devices are filled up from the largest, which is said in `notes`.
    """
    if not alpha > 0 or not np.isfinite(alpha):
        raise PartitionError(f"alpha must be a number above 0, got {alpha}")
    _require(labels, devices, max(least, 1))
    _require(labels, devices, samples_per_device)
    rng = _generator(seed)
    pool = rng.permutation(len(labels))[: devices * samples_per_device]
    for draw in range(REDRAWS):
        parts = _divide_classes(labels, pool, devices, alpha, rng)
        if min(len(part) for part in parts) >= least:
            notes = (f"drawn {draw + 1} times until every device had {least} samples",) if draw else ()
            return Partition("dirichlet-free", tuple(np.sort(np.asarray(p, np.int64)) for p in parts), notes)
    moved = _repair(parts, least)
    note = f"after {REDRAWS} draws, {moved} samples were moved so that every device has {least}"
    return Partition("dirichlet-free", tuple(np.sort(np.asarray(p, np.int64)) for p in parts), (note,))


REDRAWS = 20  # a draw costs milliseconds; what 20 draws do not give, alpha does not allow


def _divide_classes(
    labels: Labels, pool: Indices, devices: int, alpha: float, rng: np.random.Generator
) -> list[list[int]]:
    parts: list[list[int]] = [[] for _ in range(devices)]
    for label in np.unique(labels[pool]):
        members = pool[labels[pool] == label]
        cuts = (np.cumsum(rng.dirichlet([alpha] * devices))[:-1] * len(members)).astype(int)
        for part, some in zip(parts, np.split(members, cuts), strict=True):
            part.extend(some.tolist())
    return parts


def _repair(parts: list[list[int]], least: int) -> int:
    """Move samples from the largest part to the smallest until none is below `least`. Deterministic."""
    moved = 0
    while len(smallest := min(parts, key=len)) < least:
        smallest.append(max(parts, key=len).pop())
        moved += 1
    return moved


def quantity(
    labels: Labels, devices: int, samples_per_device: int, seed: int, exponent: float = 1.0
) -> Partition:
    """Same label distribution, sizes ∝ 1/rank^exponent: few devices have most of the data. The mean is as
    asked.
    """
    _require(labels, devices, samples_per_device)
    rng = _generator(seed)
    total = devices * samples_per_device
    share = 1.0 / np.arange(1, devices + 1) ** exponent
    sizes = np.maximum(1, np.floor(share / share.sum() * total).astype(np.int64))
    sizes[0] -= sizes.sum() - total
    if sizes[0] < 1:
        raise PartitionError(
            f"{devices} devices of {samples_per_device} with exponent {exponent}: sizes fall below 1"
        )
    order = rng.permutation(len(labels))[:total]
    parts = np.split(order, np.cumsum(sizes)[:-1])
    return Partition("quantity", tuple(np.sort(parts[i]) for i in rng.permutation(devices)))


def natural(users: npt.NDArray[np.int64], devices: int, samples_per_device: int, seed: int) -> Partition:
    """By who produced the sample: every device is one user (speaker, writer, machine), at most
    `samples_per_device`.

    Takes the data set's `users` where the others take labels.
    """
    ids, counts = np.unique(users, return_counts=True)
    if len(ids) < devices:
        raise PartitionError(f"{devices} devices need as many users, the data set has {len(ids)}")
    rng = _generator(seed)
    largest = ids[np.argsort(-counts, kind="stable")][:devices]
    parts = [rng.permutation(np.flatnonzero(users == user))[:samples_per_device] for user in largest]
    return Partition("natural", tuple(np.sort(part) for part in parts))


def local_split(partition: Partition, test_share: float, seed: int) -> tuple[Partition, Partition]:
    """Each device's own train and test part: disjoint, at least one sample on either side."""
    if not 0 < test_share < 1:
        raise PartitionError(f"test share {test_share}: must lie between 0 and 1")
    rng = _generator(seed)
    train, test = [], []
    for chosen in partition.devices:
        if len(chosen) < 2:
            raise PartitionError(f"a device with {len(chosen)} sample cannot be split: at least 2 are needed")
        mixed = rng.permutation(chosen)
        cut = min(len(mixed) - 1, max(1, round(test_share * len(mixed))))
        test.append(np.sort(mixed[:cut]))
        train.append(np.sort(mixed[cut:]))
    return Partition(partition.kind, tuple(train)), Partition(partition.kind, tuple(test))


# All take labels (natural: users), devices, samples_per_device, seed, and their own keywords. `feature-drift` deals
# like iid; what devices make of their samples is in learning.drift.
PARTITIONS: dict[str, Callable[..., Partition]] = {
    "iid": iid,
    "dirichlet": dirichlet,
    "shards": shards,
    "dirichlet-free": dirichlet_free,
    "quantity": quantity,
    "natural": natural,
    "feature-drift": iid,
}


def partition_kinds() -> dict[str, Callable[..., Partition]]:
    """The table with the installed plug-ins."""
    from learning.plugins import load_plugins

    load_plugins()
    return PARTITIONS
