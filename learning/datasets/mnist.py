"""MNIST (Y. LeCun, C. Cortes, C. J. C. Burges; CC BY-SA 3.0): the whole from IDX files, or the small set
shipped.
"""

from __future__ import annotations

import io
import lzma
from importlib import resources
from pathlib import Path

import numpy as np

from learning.datasets.base import Array, Dataset
from learning.datasets.idx import read_idx
from learning.shard import DatasetError

ORIGIN = "MNIST, Y. LeCun, C. Cortes, C. J. C. Burges; CC BY-SA 3.0"
FILES = {
    "train_x": ("train-images-idx3-ubyte", 3),
    "train_y": ("train-labels-idx1-ubyte", 1),
    "test_x": ("t10k-images-idx3-ubyte", 3),
    "test_y": ("t10k-labels-idx1-ubyte", 1),
}
MINI = "mnist_mini.npz.xz"


def load_mnist(data_dir: Path | None) -> Dataset:
    """The four IDX files from `<data_dir>/mnist`, or from `data_dir` itself. 60,000 + 10,000 images."""
    if data_dir is None:
        raise DatasetError(
            "data set mnist needs its files: set EDGERIG_DATA to a folder with mnist/train-images-idx3-ubyte.gz "
            "and the other three IDX files, or use mnist-mini"
        )
    folder = data_dir / "mnist" if (data_dir / "mnist").is_dir() else data_dir
    if folder.exists() and not folder.is_dir():
        raise DatasetError(f"{folder} is no folder: EDGERIG_DATA names the folder that holds mnist/")
    if not folder.is_dir():
        raise DatasetError(
            f"data folder {folder} does not exist: point EDGERIG_DATA at one, or use mnist-mini"
        )
    parts = {key: read_idx(_find(folder, stem), rank) for key, (stem, rank) in FILES.items()}
    for part in ("train", "test"):
        x, y = parts[f"{part}_x"], parts[f"{part}_y"]
        if len(x) != len(y) or x.shape[1:] != (28, 28) or (len(y) and y.max() > 9):
            raise DatasetError(f"{folder}: {part} images {x.shape} and labels {y.shape} are not MNIST's")
    return _dataset("mnist", parts)


def _dataset(name: str, parts: dict[str, Array]) -> Dataset:
    return Dataset(
        name, ORIGIN, parts["train_x"], parts["train_y"], parts["test_x"], parts["test_y"], classes=10
    )


def _find(folder: Path, stem: str) -> Path:
    for name in (f"{stem}.gz", stem):
        if (folder / name).is_file():
            return folder / name
    raise DatasetError(f"{folder / stem}.gz is missing: put MNIST's four IDX files there, or use mnist-mini")


def load_mini(_: Path | None = None) -> Dataset:
    """10,000 + 2,000 class-balanced images of MNIST, shipped inside the package
    (scripts/make_mnist_mini.py).
    """
    try:
        packed = resources.files("learning.datasets").joinpath("data", MINI).read_bytes()
        with np.load(io.BytesIO(lzma.decompress(packed)), allow_pickle=False) as arrays:
            parts = {key: arrays[key] for key in FILES}
    except (OSError, lzma.LZMAError, ValueError, KeyError) as error:
        raise DatasetError(
            f"the shipped data set {MINI} cannot be read ({error}): install the package again"
        ) from error
    return _dataset("mnist-mini", parts)
