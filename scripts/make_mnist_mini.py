"""Make learning/datasets/data/mnist_mini.npz.xz from MNIST's IDX files: python scripts/make_mnist_mini.py
DATA_FOLDER.
"""

from __future__ import annotations

import io
import lzma
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from learning.datasets.mnist import MINI, load_mnist

SEED = 20240117  # any fixed number; changing it changes the shipped file and every figure measured on it
TRAIN_PER_CLASS, TEST_PER_CLASS = 1_000, 200


def balanced(
    labels: npt.NDArray[np.uint8], per_class: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """`per_class` indices of each digit, in mixed order."""
    chosen = [rng.permutation(np.flatnonzero(labels == digit))[:per_class] for digit in range(10)]
    return rng.permutation(np.concatenate(chosen))


def main(folder: str) -> None:
    whole = load_mnist(Path(folder))
    rng = np.random.Generator(np.random.PCG64(SEED))
    train = balanced(whole.train_y, TRAIN_PER_CLASS, rng)
    test = balanced(whole.test_y, TEST_PER_CLASS, rng)
    raw = io.BytesIO()
    np.savez(
        raw,
        train_x=whole.train_x[train],
        train_y=whole.train_y[train],
        test_x=whole.test_x[test],
        test_y=whole.test_y[test],
    )
    target = Path(__file__).resolve().parent.parent / "learning" / "datasets" / "data" / MINI
    packed = lzma.compress(raw.getvalue(), preset=9 | lzma.PRESET_EXTREME)
    target.write_bytes(packed)
    print(f"{target.name}: {len(packed)} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
