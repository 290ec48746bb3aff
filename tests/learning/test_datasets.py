"""Data sets: the shipped one, IDX files, and what is said about broken ones."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from learning.datasets import DatasetError, load
from learning.datasets.idx import read_idx
from learning.shard import Shard, open_shard


def test_the_shipped_set_is_balanced_and_readable():
    data = load("mnist-mini")
    assert data.train_x.shape == (10_000, 28, 28)
    assert data.test_x.shape == (2_000, 28, 28)
    assert data.train_x.dtype == np.uint8
    assert data.classes == 10
    assert np.bincount(data.train_y).tolist() == [1_000] * 10
    assert np.bincount(data.test_y).tolist() == [200] * 10
    assert "CC BY-SA 3.0" in data.origin


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder, train=20, test=10):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for stem, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        labels = rng.integers(0, 10, count, np.uint8)
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))


def test_mnist_from_idx_files(tmp_path, monkeypatch):
    write_mnist(tmp_path / "mnist")
    assert load("mnist", tmp_path).train_x.shape == (20, 28, 28)
    monkeypatch.setenv("EDGERIG_DATA", str(tmp_path))
    assert load("mnist").test_y.shape == (10,)


def test_uncompressed_files_are_read_too(tmp_path):
    path = tmp_path / "labels-idx1-ubyte"
    path.write_bytes(idx(np.arange(5, dtype=np.uint8)))
    np.testing.assert_array_equal(read_idx(path, 1), np.arange(5))


def test_errors_name_the_path_and_the_remedy(tmp_path, monkeypatch):
    monkeypatch.delenv("EDGERIG_DATA", raising=False)
    with pytest.raises(DatasetError, match=r"EDGERIG_DATA.*mnist-mini"):
        load("mnist")
    with pytest.raises(DatasetError, match=r"nowhere does not exist"):
        load("mnist", tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"train-images-idx3-ubyte.gz is missing"):
        load("mnist", tmp_path)
    with pytest.raises(DatasetError, match=r"mnist-mini"):
        load("cifar")


GOOD = idx(np.zeros((2, 28, 28), np.uint8))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not gzip",
        gzip.compress(GOOD)[:-9],
        gzip.compress(GOOD[:-1]),
        gzip.compress(GOOD + b"x"),
        gzip.compress(b"\0\0\x0d" + GOOD[3:]),
        gzip.compress(struct.pack(">BBBBIII", 0, 0, 8, 3, 2**31, 2**31, 2**31)),
    ],
    ids=["empty", "no-gzip", "cut-gzip", "short", "long", "float", "huge-claim"],
)
def test_corrupt_files_are_refused(tmp_path, content):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"train-images.*again"):
        read_idx(path, 3)


def test_a_gzip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("learning.datasets.idx.BYTES_MAX", 1_000)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(1_000_000)))
    with pytest.raises(DatasetError, match="larger than"):
        read_idx(path, 1)


def test_labels_and_images_must_fit(tmp_path):
    write_mnist(tmp_path, train=20)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(3, np.uint8))))
    with pytest.raises(DatasetError, match="train images"):
        load("mnist", tmp_path)


def test_shards_are_mapped_and_checked(tmp_path):
    with pytest.raises(DatasetError, match=r"x.npy.*write_shards"):
        open_shard(tmp_path)
    np.save(tmp_path / "x.npy", np.zeros((3, 2), np.uint8))
    np.save(tmp_path / "y.npy", np.zeros(3, np.int64))
    shard = open_shard(tmp_path)
    assert isinstance(shard.x, np.memmap)
    np.save(tmp_path / "y.npy", np.zeros(2, np.int64))
    with pytest.raises(DatasetError, match="3 samples but 2 labels"):
        open_shard(tmp_path)
    np.save(tmp_path / "y.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DatasetError, match="Python objects"):
        open_shard(tmp_path)
    with pytest.raises(DatasetError, match="empty"):
        Shard(np.zeros((0, 2)), np.zeros(0))
