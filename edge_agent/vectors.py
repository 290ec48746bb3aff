"""float32 vectors on the device's disk, read and written in blocks: residuals, velocities, control variates."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.disk import BLOCK_BYTES, Disk
from edge_agent.ledger import Residual, SpoolError
from wire.codecs.decoded import Decoded
from wire.codecs.schedules import aged
from wire.codecs.spec import Feedback

FLOATS = BLOCK_BYTES // 4
KINDS = ("residual-", "velocity-", "variate-", "own-")

Float32 = NDArray[np.float32]


class Vectors:
    """`name` makes the name of a new file from its kind."""

    def __init__(self, disk: Disk, name: Callable[[str], str]) -> None:
        self._disk, self._name = disk, name

    def blocks(self, old: Residual | None, n: int) -> Iterator[tuple[int, Float32]]:
        """(where it begins, a block that the caller may change); zeros where there is no vector."""
        if old is None:
            for start in range(0, n, FLOATS):
                yield start, np.zeros(min(FLOATS, n - start), np.float32)
            return
        start = 0
        try:
            for block in self._disk.blocks(old.file):
                values = np.frombuffer(block, "<f4").astype(np.float32)
                yield start, values
                start += values.size
        except OSError as error:
            raise SpoolError(f"cannot read {old.file}: {error}") from error

    def add(self, old: Residual | None, vector: Float32, share: float, exact: Sequence[slice] = ()) -> None:
        """vector += share * old, but for `exact` parts: running statistics are sent whole and leave nothing."""
        if old is None or old.n != vector.size or not share:
            return
        kept = [vector[part].copy() for part in exact]
        for start, block in self.blocks(old, old.n):
            vector[start : start + block.size] += block if share == 1 else block * np.float32(share)
        for part, values in zip(exact, kept, strict=True):
            vector[part] = values

    def write(self, kind: str, n: int, parts: Iterator[Float32], norm: float, version: int) -> Residual:
        crc, name = 0, self._name(kind)

        def content() -> Iterator[memoryview]:
            nonlocal crc
            for part in parts:
                view = bytes_of(part.astype("<f4", copy=False))
                crc = zlib.crc32(view, crc)
                yield view

        try:
            self._disk.write(name, content())
        except OSError as error:
            raise SpoolError(f"cannot write {name}: {error}") from error
        return Residual(file=name, n=n, crc32=crc, norm=norm, version=version)

    def forget(self, written: Residual) -> None:
        """A vector that no ledger will name."""
        self._disk.remove(written.file)

    def with_content(self, old: Residual | None, sent: Decoded, kind: str = "residual-") -> Residual:
        """A new vector: the old one and a payload's, such as the residual with an update that is given back."""
        squares = 0.0
        if old is not None and old.n != sent.n:
            old = None  # of another model: there is nothing it could be added to

        def parts() -> Iterator[Float32]:
            nonlocal squares
            for start, block in self.blocks(old, sent.n):
                add_part(sent, block, start)
                squares += float(np.dot(block.astype(np.float64), block))
                yield block

        version = old.version if old is not None else 0
        written = self.write(kind, sent.n, parts(), 0.0, version)
        return Residual(
            file=written.file,
            n=written.n,
            crc32=written.crc32,
            norm=float(np.sqrt(squares)),
            version=version,
        )


def share_of(old: Residual | None, feedback: Feedback, version: int, *, inherited: bool) -> float:
    """How much of a residual still counts: what an earlier boot left may not, and what is old fades."""
    if old is None or feedback.kind == "off" or (feedback.restart == "fresh" and inherited):
        return 0.0
    if feedback.decay_after is None:
        return 1.0
    return aged(version - old.version, feedback.decay_after, feedback.decay_factor)


def bytes_of(array: NDArray[Any]) -> memoryview:
    """A view, not a copy."""
    return np.ascontiguousarray(array).view(np.uint8).data


def add_part(sent: Decoded, block: Float32, start: int) -> None:
    """block += the part of the update that falls on [start, start + block.size)."""
    if sent.positions is None:
        block += sent.values[start : start + block.size]
        return
    first, last = np.searchsorted(sent.positions, (start, start + block.size))
    block[sent.positions[first:last] - start] += sent.values[first:last]
