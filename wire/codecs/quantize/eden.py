"""EDEN (Vargaftik et al. 2022; one bit: DRIVE, 2021): after a rotation, the nearest Lloyd-Max level of a Gaussian.

Every block carries one scale. Without error feedback it is |x|^2 / <x, level>, which makes the decoded update
right on average; under error feedback it is <x, level> / |level|^2, which leaves the least behind. The chain
knows which.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wire.codecs.arrays import Float32
from wire.codecs.errors import CodecError
from wire.codecs.payload import Reader, Writer
from wire.codecs.quantize.base import QUANTIZERS, Options, largest
from wire.codecs.rotate.hadamard import block_sizes
from wire.codecs.spec import CodecSpec

# The positive halves of the optimal levels for N(0, 1) (Max 1960); a test recomputes them. Tabled, not
# computed at start-up: both sides must have the same bits.
LEVELS = {
    1: (0.7978846,),
    2: (0.45278004, 1.510418),
    3: (0.24509417, 0.7560053, 1.3439093, 2.1519456),
    4: (0.12839504, 0.38804822, 0.65675914, 0.9423401, 1.2562312, 1.6180464, 2.0690172, 2.7326360),
}
BITS_DEFAULT = 1


def codebook(bits: int) -> Float32:
    """All levels, increasing."""
    upper = np.array(LEVELS[bits], np.float32)
    return np.concatenate([-upper[::-1], upper])


def edges(count: int) -> NDArray[np.int64]:
    """Where the blocks of the rotation begin, and the end."""
    sizes = [size for size, number in block_sizes(count) for _ in range(number)]
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def pack_bits(indices: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """`bits` bits of every index, one after the other."""
    if bits in (1, 2, 4):
        per = 8 // bits
        padded = np.zeros(-(-indices.size // per) * per, np.uint8)
        padded[: indices.size] = indices
        packed = padded[0::per].copy()
        for place in range(1, per):
            packed |= padded[place::per] << np.uint8(place * bits)
        return packed
    planes = np.unpackbits(indices[:, None], axis=1, bitorder="little", count=bits)
    return np.packbits(planes, bitorder="little")


def unpack_bits(data: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    if bits in (1, 2, 4):
        per = 8 // bits
        indices = np.empty(data.size * per, np.uint8)
        for place in range(per):
            indices[place::per] = (data >> np.uint8(place * bits)) & np.uint8((1 << bits) - 1)
        return indices[:count]
    planes = np.unpackbits(data, bitorder="little", count=count * bits).reshape(count, bits)
    return np.packbits(planes, axis=1, bitorder="little").reshape(-1)


class Eden:
    name = "eden"
    code = 7

    def check(self, spec: CodecSpec) -> None:
        if spec.rotate != "hadamard":
            raise CodecError("spec", f"eden: needs rotate: hadamard, not {spec.rotate!r}")
        if spec.bits is not None and spec.bits not in LEVELS:
            raise CodecError("spec", f"eden: bits is {spec.bits}, allowed are {', '.join(map(str, LEVELS))}")

    def write(self, writer: Writer, values: Float32, options: Options) -> None:
        bits = options.spec.bits or BITS_DEFAULT
        levels = codebook(bits)
        middles = ((levels[1:] + levels[:-1]) / 2).astype(np.float32)
        indices = np.empty(values.size, np.uint8)
        scales = np.zeros(edges(values.size).size - 1, np.float32)
        for number, (start, end) in enumerate(pairwise(edges(values.size))):
            indices[start:end], scales[number] = _block(values[start:end], levels, middles, options.unbiased)
        writer.raw(bytes([bits]))
        writer.raw(scales.astype("<f4").tobytes())
        writer.stream(pack_bits(indices, bits).data)

    def read(self, reader: Reader, count: int) -> Float32:
        bits = reader.raw(1)[0]
        if bits not in LEVELS:
            raise CodecError("stage", f"eden with {bits} bits")
        bounds = edges(count)
        scales = np.frombuffer(reader.raw(4 * (bounds.size - 1)), "<f4")
        if not np.isfinite(scales).all() or (scales < 0).any():
            raise CodecError("scale")
        data = np.frombuffer(reader.stream(-(-count * bits // 8)), np.uint8)
        values = codebook(bits)[unpack_bits(data, bits, count)]
        with np.errstate(over="ignore"):
            values *= np.repeat(scales.astype(np.float32), np.diff(bounds))
        return values

    def error_bound(self, values: Float32, options: Options) -> float:
        # |x - s c| <= |x| + s |c|; with the unbiased scale s |c| can exceed |x| many times, with the other it
        # cannot.
        return largest(values) * math.sqrt(values.size) * 4 + 1e-30


def _block(
    values: Float32, levels: Float32, middles: Float32, unbiased: bool
) -> tuple[NDArray[np.uint8], float]:
    """Indices and scale of one block. Sums in float64: only the encoder makes them."""
    energy = _dot(values, values)
    if energy == 0:
        return np.zeros(values.size, np.uint8), 0.0
    normal = values * np.float32(math.sqrt(values.size / energy))
    indices = (normal > middles[0]).view(np.uint8)
    for middle in middles[1:]:  # at most fifteen comparisons; a binary search per element is slower
        indices += normal > middle
    chosen = levels[indices]
    product = _dot(chosen, values)
    scale = energy / product if unbiased else product / _dot(chosen, chosen)
    return indices, min(scale, float(np.finfo(np.float32).max) / 4)


def _dot(a: Float32, b: Float32) -> float:
    return float(np.einsum("i,i->", a, b, dtype=np.float64))


QUANTIZERS.add(Eden())
