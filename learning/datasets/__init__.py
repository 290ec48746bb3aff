"""Data sets of the operator's machine. Devices never import this: they get a shard (learning.shard)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from learning.datasets.base import Dataset
from learning.datasets.mnist import load_mini, load_mnist
from learning.shard import DatasetError

Loader = Callable[[Path | None], Dataset]

DATASETS: dict[str, Loader] = {"mnist": load_mnist, "mnist-mini": load_mini}


def load(name: str, data_dir: str | Path | None = None) -> Dataset:
    """A data set by name. `data_dir` is where downloaded ones live; by default the environment's
    EDGERIG_DATA.

    Raises DatasetError for an unknown name and for a missing, unreadable or corrupt folder.
    """
    if name not in DATASETS:
        raise DatasetError(f"unknown data set {name!r}: choose one of {', '.join(sorted(DATASETS))}")
    folder = data_dir if data_dir is not None else os.environ.get("EDGERIG_DATA")
    return DATASETS[name](Path(folder) if folder else None)


__all__ = ["DATASETS", "Dataset", "DatasetError", "load"]
