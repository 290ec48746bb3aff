"""Data sets: the shipped one, IDX files, and what is said about broken ones."""

from __future__ import annotations

import gzip
import os
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest

from learning.datasets import DatasetError, load
from learning.datasets.folder import open_own
from learning.datasets.idx import read_idx
from learning.datasets.sensors import make_sensors
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


def test_a_users_own_folder_as_npz_and_csv(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(DatasetError, match=r"neither train.npz"):
        load(str(folder))
    for part, count in (("train", 6), ("test", 2)):
        np.savez(folder / f"{part}.npz", x=np.ones((count, 3), np.float32), y=np.arange(count) % 3)
    data = load(str(folder))
    assert (data.train_x.shape, data.classes, data.users) == ((6, 3), 3, None)
    (folder / "train.npz").unlink()
    (folder / "train.csv").write_text("a,user,label\n1.5,7,0\n2,8,1\n")
    (folder / "test.csv").write_text("a,user,label\n3,7,1\n")
    data = load(str(folder))
    assert data.train_x.tolist() == [[1.5], [2.0]]
    assert data.users.tolist() == [7, 8]
    assert data.classes == 2
    (folder / "train.csv").write_text("a,label\n1,x\n")
    with pytest.raises(DatasetError, match=r"train.csv.*must be a number"):
        load(str(folder))
    (folder / "train.csv").write_text("a,label\nnan,1\n")
    with pytest.raises(DatasetError, match="not finite"):
        load(str(folder))
    (folder / "train.csv").write_text("a,label\n1,1\n")
    (folder / "test.csv").unlink()
    with pytest.raises(DatasetError, match=r"test.csv is missing"):
        load(str(folder))


def test_text_becomes_windows_and_what_follows(tmp_path):
    path = tmp_path / "play.txt"
    path.write_text("ROMEO:\n" + "ab" * 100 + "\nJULIET:\n" + "cd" * 100 + "\n")
    data = load(str(path))
    assert data.train_x.shape[1] == 64
    np.testing.assert_array_equal(data.train_x[0, 1:], data.train_y[0, :-1])
    assert data.users.max() == 1
    assert data.train_x.max() < data.classes
    path.write_text("short")
    with pytest.raises(DatasetError, match="at least 129"):
        load(str(path))


def test_sensor_windows_drift_between_devices_only_if_asked():
    same, apart = (make_sensors(users=4, per_user=50, test_per_user=5, drift=d) for d in (0.0, 1.0))
    assert same.train_x.shape == (200, 6, 128)
    assert same.train_x.dtype == np.float32

    def distance(data):
        means = np.stack([data.train_x[data.users == u].mean(axis=(0, 2)) for u in range(4)])
        return float(means.std(axis=0).mean())

    assert distance(apart) > 5 * distance(same)
    again = make_sensors(users=4, per_user=50, test_per_user=5, drift=1.0)
    np.testing.assert_array_equal(apart.train_x, again.train_x)


def test_a_devices_own_folder_is_converted_once_and_again_when_it_changes(tmp_path):
    folder, cache = tmp_path / "mine", tmp_path / "state" / "data"
    folder.mkdir()
    (folder / "train.csv").write_text("a,b,label\n0.5,1,0\n1.5,2,1\n")
    shard = open_own(folder, cache)
    np.testing.assert_array_equal(shard.x, np.array([[0.5, 1], [1.5, 2]], np.float32))
    assert shard.y.tolist() == [0, 1]
    made = (cache / "x.npy").stat().st_mtime_ns
    open_own(folder, cache)
    assert (cache / "x.npy").stat().st_mtime_ns == made
    (folder / "train.csv").write_text("a,b,label\n0.5,1,0\n1.5,2,1\n7,7,1\n")
    assert len(open_own(folder, cache)) == 3
    np.save(folder / "x.npy", np.zeros((5, 2), np.float32))
    np.save(folder / "y.npy", np.zeros(5, np.int64))
    assert len(open_own(folder, cache)) == 5  # what needs no conversion goes first
    (folder / "x.npy").unlink()
    (folder / "train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DatasetError, match="no column `label`"):
        open_own(folder, cache)


def archive(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path.read_bytes()


class Payload:
    """What a pickle could run."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


GOOD = {"x": np.ones((3, 2), np.float32), "y": np.arange(3)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda path: b"", "train.npz"),
        (lambda path: b"PK\x03\x04 and nothing of an archive", "train.npz"),
        (lambda path: archive(path, **GOOD)[:-40], "train.npz"),
        (lambda path: archive(path, x=np.ones((3, 2))), "arrays x and y"),
        (lambda path: archive(path, x=np.float32(1), y=np.arange(3)), "first axis"),
        (lambda path: archive(path, x=GOOD["x"], y=np.array([Payload()] * 3, object)), "train.npz"),
        (lambda path: archive(path, x=GOOD["x"], y=np.array(["a", "b", "c"])), "not finite numbers"),
        (lambda path: archive(path, x=np.zeros(1 << 30, np.uint8)[None], y=np.arange(1)), "unpacks to"),
    ],
)
def test_an_archive_that_is_none_costs_a_line_and_no_memory(tmp_path, content, said):
    """Cut, torn, of pickles, of the wrong arrays, or a megabyte that unpacks to a gigabyte."""
    folder = tmp_path / "own"
    folder.mkdir()
    data = content(tmp_path / "made.npz")
    for part in ("train", "test"):
        (folder / f"{part}.npz").write_bytes(data)
    with pytest.raises(DatasetError, match=said):
        load(str(folder))
    with pytest.raises(DatasetError, match=said):
        open_own(folder, tmp_path / "cache")


def test_bytes_in_the_middle_of_an_archive_that_were_damaged(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    rng = np.random.default_rng(0)
    good = archive(folder / "test.npz", x=rng.standard_normal((50, 3)).astype(np.float32), y=np.arange(50))
    refused = 0
    for at in range(0, len(good), 7):
        (folder / "train.npz").write_bytes(good[:at] + bytes([good[at] ^ 0x5A]) + good[at + 1 :])
        try:
            loaded = load(str(folder))
        except DatasetError:
            refused += 1
        else:  # a date, or another byte that nothing depends on
            assert loaded.train_x.shape == (50, 3)
    assert refused > len(good) // 7 // 2  # the values have a checksum


def test_a_table_with_a_field_that_has_no_end(tmp_path):
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text('a,label\n"' + "1" * 200_000)
    with pytest.raises(DatasetError, match=r"train.csv.*must be a number"):
        load(str(tmp_path))


def test_a_shard_that_is_one_number(tmp_path):
    for name in ("x", "y"):
        np.save(tmp_path / f"{name}.npy", np.float32(1))
    with pytest.raises(DatasetError, match="first axis"):
        open_shard(tmp_path)


@pytest.fixture
def unprivileged():
    """Root may read everything; nobody may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.mark.parametrize("closed", ["mnist", "mnist/train-labels-idx1-ubyte"])
def test_what_may_not_be_read_is_blamed_on_the_data_not_on_the_file_s_content(closed, unprivileged):
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "mnist"
        folder.mkdir()
        for stem in ("train", "t10k"):
            (folder / f"{stem}-images-idx3-ubyte").write_bytes(idx(np.zeros((2, 28, 28), np.uint8)))
            (folder / f"{stem}-labels-idx1-ubyte").write_bytes(idx(np.zeros(2, np.uint8)))
        load("mnist", made)
        (folder.parent / closed).chmod(0)
        try:
            with pytest.raises(DatasetError, match=r"Permission denied.*EDGERIG_DATA") as caught:
                load("mnist", made)
        finally:
            (folder.parent / closed).chmod(0o700)
    assert "Fetch" not in str(caught.value)


def test_a_file_is_no_data_folder_and_a_tilde_is_a_home(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="is no folder: EDGERIG_DATA"):
        load("mnist", tmp_path / "file")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EDGERIG_DATA", "~/data")
    with pytest.raises(DatasetError, match=f"{tmp_path}/data does not exist"):
        load("mnist")
