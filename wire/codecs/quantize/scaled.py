"""Integers times a scale, one scale per block of values: what the integer quantizers share."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wire.codecs.arrays import BLOCK, Float32
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


def pieces(block: int, count: int) -> Iterator[tuple[slice, slice]]:
    """(values, their scales) piece by piece, whole blocks in each, so that no temporary has the vector's length."""
    if not block or block >= count:  # one scale; and a declared block is never a size to allocate
        for start in range(0, count, BLOCK):
            yield slice(start, min(count, start + BLOCK)), slice(0, 1)
        return
    blocks = max(1, BLOCK // block)
    for first in range(0, -(-count // block), blocks):
        yield slice(first * block, min(count, (first + blocks) * block)), slice(first, first + blocks)


def spread(scales: Float32, block: int, count: int) -> Float32:
    """The scale of each of `count` values that begin a block; one number when all share it."""
    return scales if scales.size == 1 else np.repeat(scales, block)[:count]


def round_stochastically(
    values: Float32, scales: Float32, block: int, levels: int, rng: np.random.Generator
) -> NDArray[np.int8]:
    """floor(value / scale + uniform[0, 1)): right on average, so that rounding errors cancel over devices."""
    divisors = np.where(scales > 0, scales, np.float32(1))
    rounded = np.empty(values.size, np.int8)
    for piece, own in pieces(block, values.size):
        steps = values[piece] / spread(divisors[own], block, piece.stop - piece.start)
        steps += rng.random(steps.size, dtype=np.float32)
        np.floor(steps, out=steps)
        rounded[piece] = np.clip(steps, -levels, levels, out=steps)
    return rounded


def write_scales(writer: Writer, scales: Float32, block: int) -> None:
    writer.raw(BLOCK_BYTES.pack(block))
    writer.raw(scales.astype("<f4").tobytes())


def read_scales(reader: Reader, count: int) -> tuple[Float32, int]:
    """The scales for `count` values, and how many values share one."""
    (block,) = BLOCK_BYTES.unpack(reader.raw(BLOCK_BYTES.size))
    number = 0 if not count else -(-count // (block or count))
    scales = np.frombuffer(reader.raw(4 * number), "<f4").astype(np.float32)
    # Both extremes carry NaN along; the one scale of a sparse update is both.
    low, high = (scales[0], scales[0]) if number == 1 else (scales.min(initial=0), scales.max(initial=0))
    if not (low >= 0 and high < np.inf):
        raise CodecError("scale")
    return scales, block


def descale(steps: NDArray[np.int8], scales: Float32, block: int) -> Float32:
    values = steps.astype(np.float32)
    with np.errstate(over="ignore"):  # the chain refuses what is not finite
        if scales.size == 1:
            values *= scales[0]
            return values
        for piece, own in pieces(block, steps.size):
            values[piece] *= spread(scales[own], block, piece.stop - piece.start)
    return values
