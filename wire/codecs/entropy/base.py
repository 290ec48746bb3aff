"""The two registries of this folder and how a list of positions is written with the smallest of its codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from wire.codecs.arrays import Positions
from wire.codecs.errors import CodecError
from wire.codecs.layers import Layer
from wire.codecs.payload import Packing, Reader, Writer
from wire.codecs.registry import Registry

PACKINGS: Registry[Packing] = Registry("packing")


class Place(Protocol):
    """A code for strictly increasing positions below n.

    `layers` may help to write them smaller. `read` raises CodecError unless the bytes hold exactly `count` of
    them.
    """

    name: str
    code: int

    def bytes_min(self, positions: Positions, n: int) -> int:
        """At least so many bytes, found without writing; 0 if only writing tells."""

    def write(self, writer: Writer, positions: Positions, n: int, layers: Sequence[Layer]) -> None: ...

    def read(self, reader: Reader, count: int, n: int) -> Positions: ...


PLACES: Registry[Place] = Registry("position code")

# What `entropy:` in a topology tries: (packings of streams, codes of positions). The smallest wins, per update.
# `turned` without a matrix worth turning is `binned`, so the latter need not be tried by itself.
CHOICES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "none": (("raw",), ("gaps",)),
    "zstd": (("raw", "zstd", "huffman"), ("gaps", "turned")),
    "golomb": (("raw",), ("rice",)),
    "lossless": (("raw", "planes"), ("gaps",)),
    "smallest": (("raw", "zstd", "huffman", "planes"), ("gaps", "turned", "rice")),
}


# The first codes of a choice are the quickest to read, so a later one has to be worth it: on uniform positions the
# three differ by a thousandth, on real ones by a twentieth.
WORTH = 0.995


def write_places(
    writer: Writer, codes: tuple[Place, ...], positions: Positions, n: int, layers: Sequence[Layer] = ()
) -> None:
    """With the smallest of the codes, or an earlier one that is hardly larger."""
    best: Writer | None = None
    for code in codes:
        if best is not None and code.bytes_min(positions, n) >= best.size:
            continue
        attempt = writer.fresh()
        attempt.raw(bytes([code.code]))
        code.write(attempt, positions, n, layers)
        if best is None or attempt.size < best.size * WORTH:
            best = attempt
    assert best is not None, "every choice of an entropy stage has a position code"
    writer.raw(best.bytes())


def read_places(reader: Reader, count: int, n: int) -> Positions:
    if count > n:
        raise CodecError("count", f"{count} positions among {n}")
    return PLACES.coded(reader.raw(1)[0]).read(reader, count, n)
