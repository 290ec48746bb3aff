"""Gaps as symbols: up to 15 themselves, above that a bin (an exponent and three bits), the rest of the bits plain.

As in deflate's distance codes: the symbols are few, so the Huffman codes of the packing fit them well, and
what is left within a bin is close to uniform and not worth coding. On real updates 5 % smaller than bytes
with escapes at 1 %, 15 % at 1/400.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wire.codecs.arrays import Positions
from wire.codecs.entropy.base import PLACES
from wire.codecs.entropy.bits import pack_low_bits, unpack_low_bits
from wire.codecs.entropy.gaps import to_gaps
from wire.codecs.errors import CodecError
from wire.codecs.layers import Layer
from wire.codecs.payload import Reader, Writer

EXACT = 16
MANTISSA_BITS = 3
EXPONENT_EXACT = 4  # log2(EXACT)
SYMBOLS = EXACT + ((32 - EXPONENT_EXACT) << MANTISSA_BITS)  # gaps below 2^32, as n is

_above = np.maximum(np.arange(SYMBOLS, dtype=np.int64) - EXACT, 0)
_exponents = EXPONENT_EXACT + (_above >> MANTISSA_BITS)
WIDTHS = np.where(np.arange(SYMBOLS) < EXACT, 0, _exponents - MANTISSA_BITS)
BASES = np.where(
    np.arange(SYMBOLS) < EXACT,
    np.arange(SYMBOLS),
    ((1 << MANTISSA_BITS) | (_above & ((1 << MANTISSA_BITS) - 1))) << WIDTHS,
)


TABLE_SIZE = 1 << 16  # larger gaps are rare; a search takes ten times as long as a look-up
TABLE = (np.searchsorted(BASES, np.arange(TABLE_SIZE), side="right") - 1).astype(np.uint8)


def symbols_of(gaps: Positions) -> NDArray[np.uint8]:
    """The last bin that begins at or below each gap."""
    symbols = TABLE[np.minimum(gaps, TABLE_SIZE - 1)]
    large = np.flatnonzero(gaps >= TABLE_SIZE)
    symbols[large] = np.searchsorted(BASES, gaps[large], side="right") - 1
    return symbols


class Binned:
    name = "binned"
    code = 2

    def bytes_min(self, positions: Positions, n: int) -> int:
        return 0

    def write(self, writer: Writer, positions: Positions, n: int, layers: Sequence[Layer]) -> None:
        gaps = to_gaps(positions)
        symbols = symbols_of(gaps)
        wide = symbols >= EXACT
        rest = gaps[wide] - BASES[symbols[wide]]
        writer.stream(symbols.data, noise=True)
        writer.raw(pack_low_bits(rest, WIDTHS[symbols[wide]]).data)

    def read(self, reader: Reader, count: int, n: int) -> Positions:
        symbols = np.frombuffer(reader.stream(count), np.uint8)
        if count and symbols.max() >= SYMBOLS:
            raise CodecError("positions", "no such bin")
        places = symbols.astype(np.intp)  # once, instead of at each look-up
        gaps = BASES.take(places, mode="clip")  # checked above: "clip" only spares a second check
        # Checked before the rest is unpacked: it bounds how many wide gaps, hence bits, there can be.
        if int(gaps.sum()) + count > n:
            raise CodecError("positions", f"gaps beyond {n}")
        # Small gaps have no further bits; picking the others out would take longer than adding nothing to them.
        widths = WIDTHS.take(places, mode="clip")
        rest = np.frombuffer(reader.raw(-(-int(widths.sum()) // 8)), np.uint8)
        gaps += unpack_low_bits(rest, widths)
        gaps[1:] += 1
        positions = np.cumsum(gaps, out=gaps)
        if count and positions[-1] >= n:
            raise CodecError("positions", f"{positions[-1]} of {n}")
        return positions


PLACES.add(Binned())
