"""Byte planes apart, each packed by itself or left alone: lossless for floats, whose exponents repeat.

A mantissa plane is noise; a sample of it tells, and it is copied without a try. That is where the time goes
in zstd on floats as they are.
"""

from __future__ import annotations

import numpy as np

from wire.codecs.arrays import Bytes
from wire.codecs.entropy.base import PACKINGS
from wire.codecs.errors import CodecError
from wire.codecs.payload import STREAM, smallest

SAMPLE_BYTES = 8_192
RAW = 0
WORTH = 0.97  # a sample that packs to more than this share of itself is noise


class Planes:
    name = "planes"
    code = 3
    matches = False

    def pack(self, data: Bytes, width: int) -> bytes | None:
        if width < 2 or not len(data):
            return None
        octets = np.frombuffer(data, np.uint8).reshape(-1, width)
        parts: list[Bytes] = [bytes([width])]
        for plane in range(width):
            code, packed = pack_plane(np.ascontiguousarray(octets[:, plane]).data)
            parts += [STREAM.pack(code, len(packed)), packed]
        return b"".join(parts)

    def unpack(self, packed: memoryview, size_max: int) -> bytes:
        if not len(packed) or not 2 <= packed[0] <= 8:
            raise CodecError("compression", "byte planes of no width")
        width, at, planes = packed[0], 1, []
        for _ in range(width):
            if at + STREAM.size > len(packed):
                raise CodecError("truncated", "byte planes")
            code, length = STREAM.unpack(packed[at : at + STREAM.size])
            at += STREAM.size
            planes.append(_unpack_plane(code, packed[at : at + length], size_max // width))
            at += length
        if at != len(packed) or len({len(plane) for plane in planes}) != 1:
            raise CodecError("compression", "byte planes of different lengths")
        octets = np.empty((len(planes[0]), width), np.uint8)
        for index, plane in enumerate(planes):
            octets[:, index] = np.frombuffer(plane, np.uint8)
        return octets.tobytes()


def pack_plane(plane: memoryview) -> tuple[int, Bytes]:
    """Code and bytes of one plane. Of a long one a sample from its middle says which packing to run over it."""
    packings = [PACKINGS.named(name) for name in ("raw", "huffman", "zstd")]
    if len(plane) > 4 * SAMPLE_BYTES:
        middle = (len(plane) - SAMPLE_BYTES) // 2
        code, packed = smallest(packings, plane[middle : middle + SAMPLE_BYTES], 1)
        packings = [PACKINGS.coded(code if len(packed) < WORTH * SAMPLE_BYTES else RAW), PACKINGS.coded(RAW)]
    return smallest(packings, plane, 1)


def _unpack_plane(code: int, packed: memoryview, size_max: int) -> Bytes:
    if code == Planes.code:
        raise CodecError("compression", "planes within planes")
    return PACKINGS.coded(code).unpack(packed, size_max)


PACKINGS.add(Planes())
