"""A user's own data: a folder with train.npz and test.npz, or train.csv and test.csv."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np

from learning.datasets.base import Array, Dataset
from learning.shard import TRAIN_NAMES, DatasetError, Shard, open_shard

FILE_BYTES_MAX = 1 << 30  # read into memory on the operator's machine; more wants a loader of its own


def load_folder(folder: Path) -> Dataset:
    """NPZ with arrays x, y and optionally user; or CSV whose columns are features, then `label`, optionally
    `user`.
    """
    for suffix, read in ((".npz", _read_npz), (".csv", _read_csv)):
        if (folder / f"train{suffix}").is_file():
            (train_x, train_y, users), (test_x, test_y, _) = (
                read(_checked(folder / f"{part}{suffix}")) for part in ("train", "test")
            )
            if train_x.shape[1:] != test_x.shape[1:]:
                raise DatasetError(
                    f"{folder}: train samples {train_x.shape[1:]}, test samples {test_x.shape[1:]}"
                )
            classes = int(max(train_y.max(), test_y.max())) + 1 if train_y.dtype.kind in "ui" else 0
            return Dataset(folder.name, str(folder), train_x, train_y, test_x, test_y, classes, users)
    raise DatasetError(f"{folder} holds neither train.npz and test.npz nor train.csv and test.csv")


def open_own(folder: Path, cache: Path) -> Shard:
    """A real device's own data: a folder with x.npy and y.npy, which are memory-mapped; or with train.npz or train.csv,
    which is turned into such files in `cache` once, and again when it changes. Raises DatasetError.
    """
    source = next((folder / f"train{s}" for s in (".npz", ".csv") if (folder / f"train{s}").is_file()), None)
    if (folder / TRAIN_NAMES[0]).exists() or source is None:
        return open_shard(folder)
    mark = cache / "made-from"
    stat = _checked(source).stat()
    state = f"{source.name} {stat.st_size} {stat.st_mtime_ns}"
    if not mark.is_file() or mark.read_text() != state:
        x, y, _ = (_read_npz if source.suffix == ".npz" else _read_csv)(source)
        cache.mkdir(parents=True, exist_ok=True)
        mark.unlink(missing_ok=True)
        for name, array in zip(TRAIN_NAMES, (x, y), strict=True):
            np.save(cache / name, array)
        mark.write_text(state)
    return open_shard(cache)


def _checked(path: Path) -> Path:
    if not path.is_file():
        raise DatasetError(f"{path} is missing: a data set has a train and a test file")
    if path.stat().st_size > FILE_BYTES_MAX:
        raise DatasetError(f"{path} has {path.stat().st_size} bytes: at most {FILE_BYTES_MAX} are read")
    return path


def _read_npz(path: Path) -> tuple[Array, Array, Array | None]:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > FILE_BYTES_MAX:
            raise DatasetError(f"{path} unpacks to {unpacked} bytes: at most {FILE_BYTES_MAX} are read")
        with np.load(path, allow_pickle=False) as arrays:
            x, y = arrays["x"], arrays["y"]
            users = arrays.get("user", None)
    except DatasetError:
        raise
    except Exception as error:  # a damaged archive raises whatever its damaged part leads to
        raise DatasetError(f"{path}: {error}. It must hold arrays x and y (and may hold user)") from error
    return _validated(path, x, y, users)


def _read_csv(path: Path) -> tuple[Array, Array, Array | None]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file))
        values = np.asarray(rows, np.float32)
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(
            f"{path}: {error}. Every column must be a number, the first line their names"
        ) from error
    if "label" not in header or values.ndim != 2:
        raise DatasetError(f"{path}: no column `label` among {', '.join(header)}, or no rows")
    label, user = header.index("label"), header.index("user") if "user" in header else None
    features = [i for i in range(len(header)) if i not in (label, user)]
    y = values[:, label]
    whole = y.astype(np.int64) if np.array_equal(y, np.rint(y)) else y
    users = None if user is None else values[:, user].astype(np.int64)
    return _validated(path, values[:, features], whole, users)


def _validated(path: Path, x: Array, y: Array, users: Array | None) -> tuple[Array, Array, Array | None]:
    if not x.ndim or not y.ndim or (users is not None and not users.ndim):
        raise DatasetError(f"{path}: x, y and user have a first axis, that of the samples")
    if len(x) == 0 or len(x) != len(y) or (users is not None and len(users) != len(x)):
        raise DatasetError(f"{path}: {len(x)} samples, {len(y)} labels: both must be the same and not 0")
    for name, array in (("x", x), ("y", y)):
        if array.dtype.kind not in "uif" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
            raise DatasetError(f"{path}: {name} holds {array.dtype} that is not finite numbers")
    return x, y, users
