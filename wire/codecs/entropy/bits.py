"""Numbers of a few bits each, packed one after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wire.codecs.arrays import Positions

Octets = NDArray[np.uint8]


def pack_low_bits(numbers: Positions, widths: Positions) -> Octets:
    """The lowest `widths[i]` bits of `numbers[i]`, most significant first, without gaps between them."""
    return np.packbits(_bits(numbers, widths))


def _bits(numbers: Positions, widths: Positions) -> Octets:
    columns = np.arange(int(widths.max(initial=0)))[::-1]
    matrix = ((numbers[:, None] >> columns) & 1).astype(np.uint8)
    return matrix[columns < widths[:, None]]


def unpack_low_bits(data: Octets, widths: Positions) -> Positions:
    """The inverse; `data` holds at least sum(widths) bits."""
    columns = np.arange(int(widths.max(initial=0)))[::-1]
    matrix = np.zeros((widths.size, columns.size), np.uint8)
    matrix[columns < widths[:, None]] = np.unpackbits(data, count=int(widths.sum()))
    numbers = np.zeros(widths.size, np.int64)
    for column in range(columns.size):  # a product with the powers of two would need eight times the memory
        numbers <<= 1
        numbers |= matrix[:, column]
    return numbers
