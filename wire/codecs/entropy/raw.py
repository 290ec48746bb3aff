"""Bytes as they are: the packing that always applies."""

from __future__ import annotations

from wire.codecs.arrays import Bytes
from wire.codecs.entropy.base import PACKINGS
from wire.codecs.errors import CodecError


class Raw:
    name = "raw"
    code = 0
    matches = False

    def pack(self, data: Bytes, width: int) -> Bytes:
        return data

    def unpack(self, packed: memoryview, size_max: int) -> memoryview:
        if len(packed) > size_max:
            raise CodecError("count", f"a stream of {len(packed)} bytes, at most {size_max} are due")
        return packed


PACKINGS.add(Raw())
