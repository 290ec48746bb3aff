"""Numbers of a few bits each, packed one after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wire.codecs.arrays import Positions

Octets = NDArray[np.uint8]


WORD_BITS = 32  # numbers are below 2^32, as n is


def pack_low_bits(numbers: Positions, widths: Positions) -> Octets:
    """The lowest `widths[i]` bits of `numbers[i]`, most significant first, without gaps between them."""
    bits = np.unpackbits(numbers.astype(">u4").view(np.uint8).reshape(-1, 4), axis=1)
    return np.packbits(_tails(bits, widths)[_used(widths)])


def unpack_low_bits(data: Octets, widths: Positions) -> Positions:
    """The inverse; `data` holds at least sum(widths) bits."""
    bits = np.zeros((widths.size, WORD_BITS), np.uint8)
    _tails(bits, widths)[_used(widths)] = np.unpackbits(data, count=int(widths.sum()))
    return np.packbits(bits, axis=1).view(">u4").reshape(-1).astype(np.int64)


def _tails(bits: Octets, widths: Positions) -> Octets:
    """The last columns, as many as the widest number uses."""
    return bits[:, WORD_BITS - int(widths.max(initial=0)) :]


def _used(widths: Positions) -> NDArray[np.bool_]:
    """Which of those columns belong to each number."""
    columns = np.arange(int(widths.max(initial=0)), dtype=np.uint8)[::-1]
    return columns < widths.astype(np.uint8)[:, None]
