"""Four bits a value, rounded stochastically: seven steps each way of the block's largest magnitude."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wire.codecs.arrays import Float32
from wire.codecs.errors import CodecError
from wire.codecs.payload import Reader, Writer
from wire.codecs.quantize.base import QUANTIZERS, Options, Simple
from wire.codecs.quantize.scaled import descale, read_scales, round_stochastically, scales_of, write_scales

LEVELS = 7


def pack_nibbles(steps: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Two values a byte, the earlier one low, each plus 7; an odd last one is followed by a zero."""
    nibbles = np.zeros(steps.size + steps.size % 2, np.uint8)
    nibbles[: steps.size] = steps + LEVELS
    return nibbles[0::2] | (nibbles[1::2] << np.uint8(4))


def unpack_nibbles(data: NDArray[np.uint8], count: int) -> NDArray[np.int8]:
    nibbles = np.empty(2 * data.size, np.uint8)
    nibbles[0::2] = data & 15
    nibbles[1::2] = data >> np.uint8(4)
    if (nibbles > 2 * LEVELS).any():
        raise CodecError("level")
    return nibbles[:count].astype(np.int8) - np.int8(LEVELS)


class Int4(Simple):
    name = "int4"
    code = 4

    def write(self, writer: Writer, values: Float32, options: Options) -> None:
        scales = scales_of(values, options.block, LEVELS)
        write_scales(writer, scales, options.block)
        steps = round_stochastically(values, scales, options.block, LEVELS, options.rng)
        writer.stream(pack_nibbles(steps).data, noise=True)

    def read(self, reader: Reader, count: int) -> Float32:
        scales, block = read_scales(reader, count)
        data = np.frombuffer(reader.stream(-(-count // 2)), np.uint8)
        return descale(unpack_nibbles(data, count), scales, block)

    def error_bound(self, values: Float32, options: Options) -> float:
        return float(np.max(scales_of(values, options.block, LEVELS), initial=0.0)) * 1.0001 + 1e-44 * LEVELS


QUANTIZERS.add(Int4())
