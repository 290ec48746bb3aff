"""Numbers of a few bits each, packed one after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wire.codecs.arrays import Positions

Octets = NDArray[np.uint8]


def pack_low_bits(numbers: Positions, widths: Positions) -> Octets:
    """The lowest `widths[i]` <= 32 bits of `numbers[i]`, most significant first, without gaps between them."""
    word = _word(widths)
    bits = np.unpackbits(numbers.astype(word).view(np.uint8).reshape(-1, word.itemsize), axis=1)
    return np.packbits(bits[_used(widths, word)])


def unpack_low_bits(data: Octets, widths: Positions) -> Positions:
    """The inverse; `data` holds at least sum(widths) bits."""
    word = _word(widths)
    bits = np.zeros((widths.size, 8 * word.itemsize), np.uint8)
    bits[_used(widths, word)] = np.unpackbits(data, count=int(widths.sum()))
    return np.packbits(bits, axis=1).view(word).reshape(-1).astype(np.int64)


def _word(widths: Positions) -> np.dtype[np.unsignedinteger]:
    """The shortest unsigned integer, big-endian, that holds the widest number: its bits are spread over bytes."""
    widest = int(widths.max(initial=0))
    return np.dtype(np.uint8) if widest <= 8 else np.dtype(">u2") if widest <= 16 else np.dtype(">u4")


def _used(widths: Positions, word: np.dtype[np.unsignedinteger]) -> NDArray[np.bool_]:
    """Which bits of a word belong to each number: the last ones."""
    columns = np.arange(8 * word.itemsize, dtype=np.uint8)[::-1]
    return columns < widths.astype(np.uint8)[:, None]
