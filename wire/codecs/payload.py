"""The bytes of an update, written and read with every size checked.

    header   16 bytes: magic "ER", format, sparsify, rotate, quantize, bypass runs (u16), n, values (u32)
    seed     8 bytes, if a stage needs the decoder to draw what the encoder drew
    bypass   per run start and length (u32 each), then one stream of float16 values
    places   one byte naming the position code, then its stream; absent when dense or implied by the seed
    values   what the quantizer writes

A stream is a byte naming its packing, its packed length (u32), and the packed bytes. All integers
little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from wire.codecs.arrays import Bytes
from wire.codecs.errors import CodecError

MAGIC = b"ER"
FORMAT = 1
DENSE = 0  # the sparsify code of a payload with every element
SEED_BYTES = 8
HEADER = struct.Struct("<2sBBBBHII")
STREAM = struct.Struct("<BI")


class Header(NamedTuple):
    sparsify: int
    rotate: int
    quantize: int
    bypass_runs: int
    n: int
    values: int

    def pack(self) -> bytes:
        return HEADER.pack(MAGIC, FORMAT, *self)


class Packing(Protocol):
    """A lossless way to store a stream: one of `entropy/`. `matches`: whether it searches for repetitions.

    `pack` may give up (None) when it does not apply. `unpack` returns exactly the stream's bytes, never more than
    `size_max`, and raises CodecError before it allocates more.
    """

    name: str
    code: int
    matches: bool

    def pack(self, data: Bytes, width: int) -> Bytes | None: ...

    def unpack(self, packed: memoryview, size_max: int) -> Bytes: ...


class Packings(Protocol):
    """How a reader finds a packing by the byte in front of a stream."""

    def coded(self, code: int) -> Packing: ...


class Writer:
    """Collects the parts of a payload; every stream is stored in the smallest of the packings allowed."""

    def __init__(self, packings: Sequence[Packing]) -> None:
        self._packings = packings
        self._parts: list[Bytes] = []

    def raw(self, data: Bytes) -> None:
        self._parts.append(data)

    def stream(self, data: Bytes, width: int = 1, *, noise: bool = False) -> None:
        """`width`: bytes per item, which the packings that separate byte planes want to know. `noise`: items that
        repeat by chance only, so that a search for matches is not worth its time.
        """
        packings = self._packings
        if noise:
            packings = [packing for packing in packings if not packing.matches] or packings
        code, packed = smallest(packings, data, width)
        self._parts.append(STREAM.pack(code, len(packed)))
        self._parts.append(packed)

    def bytes(self) -> bytes:
        return b"".join(self._parts)

    @property
    def size(self) -> int:
        return sum(len(part) for part in self._parts)

    def fresh(self) -> Writer:
        """An empty writer with the same packings, to try an encoding and compare."""
        return Writer(self._packings)


def smallest(packings: Sequence[Packing], data: Bytes, width: int) -> tuple[int, Bytes]:
    best: tuple[int, Bytes] | None = None
    for packing in packings:
        packed = packing.pack(data, width)
        if packed is not None and (best is None or len(packed) < len(best[1])):
            best = packing.code, packed
    if best is None:
        raise CodecError("spec", "no packing applies")
    return best


class Reader:
    """Walks over a payload; asks for more than there is end in CodecError, never in another exception."""

    def __init__(self, payload: Bytes, packings: Packings) -> None:
        self._view = memoryview(payload)
        self._packings = packings
        self._at = 0

    def raw(self, size: int) -> memoryview:
        end = self._at + size
        if end > len(self._view):
            raise CodecError("truncated", f"{size} bytes wanted at {self._at} of {len(self._view)}")
        piece = self._view[self._at : end]
        self._at = end
        return piece

    def header(self) -> Header:
        magic, version, *fields = HEADER.unpack(self.raw(HEADER.size))
        if magic != MAGIC:
            raise CodecError("magic")
        if version != FORMAT:
            raise CodecError("version", f"{version}, this side speaks {FORMAT}")
        return Header(*fields)

    def stream(self, size: int) -> Bytes:
        """A stream of exactly `size` bytes."""
        data = self.stream_up_to(size)
        if len(data) != size:
            raise CodecError("count", f"a stream of {len(data)} bytes where {size} are due")
        return data

    def stream_up_to(self, size_max: int) -> Bytes:
        code, length = STREAM.unpack(self.raw(STREAM.size))
        return self._packings.coded(code).unpack(self.raw(length), size_max)

    def end(self) -> None:
        if self._at != len(self._view):
            raise CodecError("trailing", f"{len(self._view) - self._at} bytes")
