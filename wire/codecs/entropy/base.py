"""The two registries of this folder and how a list of positions is written with the smallest of its codes."""

from __future__ import annotations

from typing import Protocol

from wire.codecs.arrays import Positions
from wire.codecs.errors import CodecError
from wire.codecs.payload import Packing, Reader, Writer
from wire.codecs.registry import Registry

PACKINGS: Registry[Packing] = Registry("packing")


class Place(Protocol):
    """A code for strictly increasing positions below n.

    `read` raises CodecError unless the bytes hold exactly `count` such positions.
    """

    name: str
    code: int

    def write(self, writer: Writer, positions: Positions, n: int) -> None: ...

    def read(self, reader: Reader, count: int, n: int) -> Positions: ...


PLACES: Registry[Place] = Registry("position code")

# What `entropy:` in a topology tries: (packings of streams, codes of positions). The smallest wins, per
# update.
CHOICES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "none": (("raw",), ("gaps",)),
    "zstd": (("raw", "zstd", "huffman"), ("gaps", "binned")),
    "golomb": (("raw",), ("rice",)),
    "lossless": (("raw", "planes"), ("gaps",)),
    "smallest": (("raw", "zstd", "huffman", "planes"), ("gaps", "binned", "rice")),
}


def write_places(writer: Writer, codes: tuple[Place, ...], positions: Positions, n: int) -> None:
    tried = []
    for code in codes:
        attempt = writer.fresh()
        attempt.raw(bytes([code.code]))
        code.write(attempt, positions, n)
        tried.append(attempt)
    writer.raw(min(tried, key=lambda attempt: attempt.size).bytes())


def read_places(reader: Reader, count: int, n: int) -> Positions:
    if count > n:
        raise CodecError("count", f"{count} positions among {n}")
    return PLACES.coded(reader.raw(1)[0]).read(reader, count, n)
