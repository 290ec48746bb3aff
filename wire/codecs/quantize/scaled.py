"""Integers times a scale, one scale per block of values: what the integer quantizers share."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from wire.codecs.arrays import Float32
from wire.codecs.errors import CodecError
from wire.codecs.payload import Reader, Writer

BLOCK_BYTES = struct.Struct("<I")


def scales_of(values: Float32, block: int, levels: int) -> Float32:
    """Per block the largest magnitude / levels, such that levels * scale is still finite."""
    if not values.size:
        return np.zeros(0, np.float32)
    starts = np.arange(0, values.size, block or values.size)
    scales = (np.maximum.reduceat(np.abs(values), starts) / np.float32(levels)).astype(np.float32)
    with np.errstate(over="ignore"):
        overflow = ~np.isfinite(scales * np.float32(levels))
    scales[overflow] = np.nextafter(scales[overflow], np.float32(0))
    return scales


def spread(scales: Float32, block: int, count: int) -> Float32:
    """The scale of each value; one number when all share it."""
    if not block or block >= count:  # a declared block is never a size to allocate
        return scales
    return np.repeat(scales, block)[:count]


def round_stochastically(
    values: Float32, scales: Float32, block: int, levels: int, rng: np.random.Generator
) -> NDArray[np.int8]:
    """floor(value / scale + uniform[0, 1)): right on average, so that rounding errors cancel over devices."""
    divisor = spread(np.where(scales > 0, scales, np.float32(1)), block, values.size)
    steps = values / divisor
    steps += rng.random(values.size, dtype=np.float32)
    np.floor(steps, out=steps)
    return np.clip(steps, -levels, levels, out=steps).astype(np.int8)


def write_scales(writer: Writer, scales: Float32, block: int) -> None:
    writer.raw(BLOCK_BYTES.pack(block))
    writer.raw(scales.astype("<f4").tobytes())


def read_scales(reader: Reader, count: int) -> tuple[Float32, int]:
    """The scales for `count` values, and how many values share one."""
    (block,) = BLOCK_BYTES.unpack(reader.raw(BLOCK_BYTES.size))
    number = 0 if not count else -(-count // (block or count))
    scales = np.frombuffer(reader.raw(4 * number), "<f4").astype(np.float32)
    if not (scales >= 0).all() or not np.isfinite(scales).all():
        raise CodecError("scale")
    return scales, block


def descale(steps: NDArray[np.int8], scales: Float32, block: int) -> Float32:
    values = steps.astype(np.float32)
    with np.errstate(over="ignore"):
        values *= spread(scales, block, steps.size)
    return values
