"""The randomised Hadamard transform: random signs, then a Walsh-Hadamard matrix, in blocks.

After it the elements of a block are close to Gaussian whatever they were before (Suresh et al. 2017), which is what
DRIVE and EDEN rely on. Only additions, subtractions and one multiplication per element in a fixed order,
hence the same bits on every machine; a matrix product would be faster and differ between BLAS libraries.
"""

from __future__ import annotations

import numpy as np

from wire.codecs.arrays import Float32
from wire.codecs.rotate.base import ROTATIONS
from wire.codecs.seeds import raw_bits

BLOCK_MAX = 16_384  # 64 kB: a block and its temporaries stay in the cache of any core this runs on
BLOCK_MIN = 128  # a shorter tail is padded with zeros: its own scale would cost more than the padding
BLOCKS_AT_ONCE = 8
PURPOSE = 0x6861646D61726400  # "hadmard": keeps these words apart from random-k's


def block_sizes(count: int) -> list[tuple[int, int]]:
    """(size of a block, how many of them): full ones, then the powers of two that make up the rest."""
    full, rest = divmod(count, BLOCK_MAX)
    sizes = [(BLOCK_MAX, full)] if full else []
    size = BLOCK_MAX // 2
    while size > BLOCK_MIN:
        if rest >= size:
            sizes.append((size, 1))
            rest -= size
        size //= 2
    if rest:
        sizes.append((BLOCK_MIN, -(-rest // BLOCK_MIN)))
    return sizes


def padded(count: int) -> int:
    return sum(size * number for size, number in block_sizes(count))


def butterflies(data: Float32, length: int) -> None:
    """The unnormalised transform along axis 1 (of `length`, a power of two) of a 3-D array, in place."""
    groups, _, inner = data.shape
    half = 1
    while half < length:
        pairs = data.reshape(groups * length // (2 * half), 2, half * inner)
        difference = pairs[:, 0] - pairs[:, 1]
        pairs[:, 0] += pairs[:, 1]
        pairs[:, 1] = difference
        half *= 2


def transform(blocks: Float32, rows: int, columns: int) -> Float32:
    """Orthonormal transform of blocks[*, rows * columns], and of its own result with rows and columns swapped
    back: H_c (H_r X)^T. Working on rows keeps numpy's inner loops long.
    """
    data = blocks.reshape(-1, rows, columns).copy()
    butterflies(data, rows)
    turned = np.ascontiguousarray(data.transpose(0, 2, 1))
    butterflies(turned, columns)
    turned *= np.float32(1 / np.sqrt(rows * columns))
    return turned.reshape(blocks.shape)


def _sides(size: int) -> tuple[int, int]:
    rows = 1 << (size.bit_length() // 2)
    return rows, size // rows


def flip_signs(data: Float32, seed: int) -> None:
    """Change the sign of half of the elements, in place: exact, and the same on every machine."""
    words = raw_bits(seed, -(-data.size // 64), PURPOSE).astype("<u8")
    flips = np.unpackbits(words.view(np.uint8), count=data.size).astype(np.uint32)
    flips <<= np.uint32(31)
    data.view(np.uint32)[:] ^= flips


def _each(data: Float32, turned: bool) -> None:
    """Transform every block of `data` in place; `turned` for the way back."""
    start = 0
    for size, number in block_sizes(data.size):
        rows, columns = _sides(size)[:: -1 if turned else 1]
        for first in range(0, number, BLOCKS_AT_ONCE):
            end = start + size * min(BLOCKS_AT_ONCE, number - first)
            data[start:end] = transform(data[start:end].reshape(-1, size), rows, columns).reshape(-1)
            start = end


class Hadamard:
    name = "hadamard"
    code = 1

    def padded(self, count: int) -> int:
        return padded(count)

    def forward(self, values: Float32, seed: int) -> Float32:
        rotated = np.zeros(padded(values.size), np.float32)
        rotated[: values.size] = values
        flip_signs(rotated, seed)
        with np.errstate(over="ignore", invalid="ignore"):  # the chain refuses what is not finite
            _each(rotated, turned=False)
        return rotated

    def backward(self, rotated: Float32, count: int, seed: int) -> Float32:
        values = rotated.copy()
        with np.errstate(over="ignore", invalid="ignore"):
            _each(values, turned=True)
        flip_signs(values, seed)
        return values[:count]


ROTATIONS.add(Hadamard())
