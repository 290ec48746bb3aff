"""Golomb-Rice codes of the gaps (Golomb 1966; Sattler et al. 2019 for updates): the best for uniform positions.

Quotients in unary and remainders in `bits` plain bits, apart, so that both are unpacked without a
loop.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np

from wire.codecs.arrays import Positions
from wire.codecs.entropy.base import PLACES
from wire.codecs.entropy.bits import pack_low_bits, unpack_low_bits
from wire.codecs.entropy.gaps import to_gaps
from wire.codecs.errors import CodecError
from wire.codecs.layers import Layer
from wire.codecs.payload import Reader, Writer

HEAD = struct.Struct("<BI")  # bits, bytes of the quotients
BITS_MAX = 31
GOLDEN = (math.sqrt(5) + 1) / 2


def best_bits(count: int, n: int) -> int:
    """b* = 1 + floor(log2(log(phi - 1) / log(1 - p))), the optimum for a geometric law (STC, equation 17)."""
    share = count / n if n else 0.0
    if not 0 < share < 0.5:
        return 0
    return min(BITS_MAX, 1 + math.floor(math.log2(math.log(GOLDEN - 1) / math.log1p(-share))))


class Rice:
    name = "rice"
    code = 1

    def bytes_min(self, positions: Positions, n: int) -> int:
        """Exact: the code has no statistics to be surprised by."""
        bits = best_bits(positions.size, n)
        quotients = int((to_gaps(positions) >> bits).sum()) + positions.size
        return HEAD.size + -(-quotients // 8) + -(-positions.size * bits // 8)

    def write(self, writer: Writer, positions: Positions, n: int, layers: Sequence[Layer]) -> None:
        gaps = to_gaps(positions)
        bits = best_bits(gaps.size, n)
        ends = np.cumsum((gaps >> bits) + 1) - 1
        unary = np.zeros(int(ends[-1]) + 1 if ends.size else 0, np.uint8)
        unary[ends] = 1
        packed = np.packbits(unary)
        writer.raw(HEAD.pack(bits, packed.size))
        writer.raw(packed.data)
        writer.raw(pack_low_bits(gaps, np.full(gaps.size, bits)).data)

    def read(self, reader: Reader, count: int, n: int) -> Positions:
        bits, size = HEAD.unpack(reader.raw(HEAD.size))
        if bits > BITS_MAX or size > ((n >> bits) + count + 7) // 8:
            raise CodecError("positions", f"{bits} bits, {size} bytes of quotients")
        unary = np.frombuffer(reader.raw(size), np.uint8)
        ends = np.flatnonzero(np.unpackbits(unary))
        if ends.size != count:
            raise CodecError("positions", f"{ends.size} gaps for {count} positions")
        rest = np.frombuffer(reader.raw(-(-count * bits // 8)), np.uint8)
        quotients = np.diff(ends, prepend=-1) - 1
        gaps = (quotients << bits) + unpack_low_bits(rest, np.full(count, bits))
        positions = np.cumsum(gaps) + np.arange(count, dtype=np.int64)
        if count and positions[-1] >= n:
            raise CodecError("positions", f"{positions[-1]} of {n}")
        return positions


PLACES.add(Rice())
