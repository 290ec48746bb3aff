"""Numbers of a few bits each, packed one after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wire.codecs.arrays import Positions

Octets = NDArray[np.uint8]
WINDOW_BYTES = 8  # 32 bits that begin at any bit of a byte reach into the fifth


def pack_low_bits(numbers: Positions, widths: Positions) -> Octets:
    """The lowest `widths[i]` <= 32 bits of `numbers[i]`, most significant first, without gaps between them."""
    word = _word(widths)
    bits = np.unpackbits(numbers.astype(word).view(np.uint8).reshape(-1, word.itemsize), axis=1)
    return np.packbits(bits[_used(widths, word)])


def unpack_low_bits(data: Octets, widths: Positions) -> Positions:
    """The inverse; `data` holds at least sum(widths) bits. Each number is cut out of the eight bytes that begin where
    it does: a view with a step of one byte holds all of them, and it is read at as many places as there are numbers.
    """
    if not widths.size:
        return np.zeros(0, np.int64)
    padded = np.zeros(data.size + WINDOW_BYTES, np.uint8)
    padded[: data.size] = data
    windows: NDArray[np.uint64] = np.ndarray(data.size + 1, ">u8", buffer=padded.data, strides=(1,))
    starts = np.cumsum(widths)
    starts -= widths
    found = windows[starts >> 3].astype(np.uint64)
    starts &= 7
    found <<= starts.view(np.uint64)  # what belongs to the number before
    found >>= np.uint64(1)  # one apart: a shift by 64, for a number of no bits, is not defined
    found >>= (63 - widths).view(np.uint64)
    numbers: Positions = found.view(np.int64)
    return numbers


def _word(widths: Positions) -> np.dtype[np.unsignedinteger]:
    """The shortest unsigned integer, big-endian, that holds the widest number: its bits are spread over bytes."""
    widest = int(widths.max(initial=0))
    return np.dtype(np.uint8) if widest <= 8 else np.dtype(">u2") if widest <= 16 else np.dtype(">u4")


def _used(widths: Positions, word: np.dtype[np.unsignedinteger]) -> NDArray[np.bool_]:
    """Which bits of a word belong to each number: the last ones."""
    columns = np.arange(8 * word.itemsize, dtype=np.uint8)[::-1]
    return columns < widths.astype(np.uint8)[:, None]
