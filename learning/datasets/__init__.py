"""Data sets of the operator's machine. Devices get a shard (learning.shard); a real one may have a folder of its own
(learning.datasets.folder.open_own).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from learning.datasets.base import Dataset
from learning.datasets.folder import load_folder
from learning.datasets.mnist import load_mini, load_mnist
from learning.datasets.sensors import make_sensors
from learning.datasets.text import load_text
from learning.shard import DatasetError

Loader = Callable[..., Dataset]

DATASETS: dict[str, Loader] = {
    "mnist": load_mnist,
    "mnist-mini": load_mini,
    "sensors": lambda _, **options: make_sensors(**options),
}


def load(
    name: str,
    data_dir: str | Path | None = None,
    options: Mapping[str, float | int | str | bool] | None = None,
) -> Dataset:
    """A data set by name, or a path: a folder (learning.datasets.folder) or a .txt file. `data_dir` is where
    downloaded ones live; by default the environment's EDGERIG_DATA. `options`: the loader's keywords.

    Raises DatasetError for an unknown name, for options a data set does not have, and for a missing, unreadable or
    corrupt folder.
    """
    try:
        return _load(name, data_dir, dict(options or {}))
    except TypeError as error:
        raise DatasetError(f"data set {name}: {error}") from error
    except OSError as error:
        # Whatever a folder or a file refuses is a matter of the data, not of the run's own folder.
        blame = f"check its permissions{'' if _is_path(name) else ' and EDGERIG_DATA'}"
        raise DatasetError(
            f"data set {name}: cannot read {error.filename or name}: {error.strerror or error}. Please {blame}"
        ) from error


def _is_path(name: str) -> bool:
    return name not in DATASETS and (os.sep in name or name.endswith(".txt"))


def _load(name: str, data_dir: str | Path | None, options: dict[str, Any]) -> Dataset:
    if _is_path(name):
        path = Path(name)
        return load_folder(path, **options) if path.is_dir() else load_text(path, **options)
    if name not in DATASETS:
        from learning.plugins import load_plugins

        load_plugins()
    if name not in DATASETS:
        raise DatasetError(f"unknown data set {name!r}: choose one of {', '.join(sorted(DATASETS))}")
    folder = data_dir if data_dir is not None else os.environ.get("EDGERIG_DATA")
    return DATASETS[name](Path(folder).expanduser() if folder else None, **options)


__all__ = ["DATASETS", "Dataset", "DatasetError", "load"]
