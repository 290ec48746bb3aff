"""Numbers of a few bits each, packed one after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wire.codecs.arrays import Positions

Octets = NDArray[np.uint8]
WORD_BYTES = 4  # a number of at most 32 bits ends within the word after the one it begins in


def pack_low_bits(numbers: Positions, widths: Positions) -> Octets:
    """The lowest `widths[i]` <= 32 bits of `numbers[i]`, most significant first, without gaps between them."""
    word = _word(widths)
    bits = np.unpackbits(numbers.astype(word).view(np.uint8).reshape(-1, word.itemsize), axis=1)
    return np.packbits(bits[_used(widths, word)])


def unpack_low_bits(data: Octets, widths: Positions) -> Positions:
    """The inverse; `data` holds at least sum(widths) bits. Each number is cut out of the 64 bits that begin at the
    aligned word in which it does: there are few such windows, and looking one up costs a sixth of reading 64 bits
    that begin at any byte.
    """
    if not widths.size:
        return np.zeros(0, np.int64)
    windows = _windows(data)
    starts = np.cumsum(widths)
    starts -= widths
    found = windows.take(starts >> 5, mode="clip")  # starts are in range: "clip" only spares a check
    starts &= 31
    found <<= starts.view(np.uint64)  # what belongs to the number before
    found >>= np.uint64(1)  # one apart: a shift by 64, for a number of no bits, is not defined
    found >>= (63 - widths).view(np.uint64)
    numbers: Positions = found.view(np.int64)
    return numbers


def _windows(data: Octets) -> NDArray[np.uint64]:
    """The 64 bits that begin at each multiple of 32, the one at the end of `data` included; zeros follow."""
    words = data.size // WORD_BYTES + 2
    padded = np.zeros(words * WORD_BYTES, np.uint8)
    padded[: data.size] = data
    halves = padded.view(">u4").astype(np.uint64)
    return (halves[:-1] << np.uint64(32)) | halves[1:]


def _word(widths: Positions) -> np.dtype[np.unsignedinteger]:
    """The shortest unsigned integer, big-endian, that holds the widest number: its bits are spread over bytes."""
    widest = int(widths.max(initial=0))
    return np.dtype(np.uint8) if widest <= 8 else np.dtype(">u2") if widest <= 16 else np.dtype(">u4")


def _used(widths: Positions, word: np.dtype[np.unsignedinteger]) -> NDArray[np.bool_]:
    """Which bits of a word belong to each number: the last ones."""
    columns = np.arange(8 * word.itemsize, dtype=np.uint8)[::-1]
    return columns < widths.astype(np.uint8)[:, None]
