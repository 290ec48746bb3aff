"""A device's own data: two memory-mapped numpy files, x.npy and y.npy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
TRAIN_NAMES, TEST_NAMES = ("x.npy", "y.npy"), ("x_test.npy", "y_test.npy")


class DatasetError(ValueError):
    """Data that is missing, unreadable or not what it should be. The message names the path and what to
    do.
    """


@dataclass(frozen=True)
class Shard:
    """Samples x [n, ...] and labels y [n, ...]; both may be memory-mapped."""

    x: Array
    y: Array

    def __post_init__(self) -> None:
        if not self.x.ndim or not self.y.ndim:
            raise DatasetError("x and y have a first axis, that of the samples")
        if len(self.x) != len(self.y):
            raise DatasetError(f"{len(self.x)} samples but {len(self.y)} labels")
        if len(self.x) == 0:
            raise DatasetError("the shard is empty: give the device at least one sample")

    def __len__(self) -> int:
        return len(self.x)


def open_shard(folder: str | Path, names: tuple[str, str] = TRAIN_NAMES) -> Shard:
    """Map `x.npy` and `y.npy` of a folder; nothing is read yet. Raises DatasetError."""
    folder = Path(folder)
    arrays = []
    for name in names:
        path = folder / name
        try:
            # Never allow_pickle: a shard is data, not code.
            arrays.append(np.load(path, mmap_mode="r", allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise DatasetError(
                f"cannot read the shard {path}: {error}. Write it with learning.partition.write_shards, or "
                "point `shard` in agent.yaml at a folder with x.npy and y.npy"
            ) from error
    return Shard(arrays[0], arrays[1])
