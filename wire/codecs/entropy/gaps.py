"""Positions as the gaps between them, a byte each, 255 meaning "add 255 and go on".

On real updates the positions cluster (whole filters and rows move together), so gaps are small and repeat,
and zstd finds that: 5 bits a position where a memoryless code needs 8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wire.codecs.arrays import Positions
from wire.codecs.entropy.base import PLACES
from wire.codecs.errors import CodecError
from wire.codecs.layers import Layer
from wire.codecs.payload import Reader, Writer

ESCAPE = 255


def to_gaps(positions: Positions) -> Positions:
    """Elements left out before each position: the first position, then the differences less one."""
    gaps = np.empty_like(positions)
    if positions.size:
        gaps[0] = positions[0]
        np.subtract(positions[1:], positions[:-1], out=gaps[1:])
        gaps[1:] -= 1
    return gaps


def gap_bytes(positions: Positions) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    gaps = to_gaps(positions)
    escapes = gaps // ESCAPE
    ends = np.cumsum(escapes + 1) - 1
    stream = np.full(int(ends[-1]) + 1 if ends.size else 0, ESCAPE, np.uint8)
    stream[ends] = gaps - escapes * ESCAPE
    return stream


class Gaps:
    name = "gaps"
    code = 0

    def bytes_min(self, positions: Positions, n: int) -> int:
        return 0

    def write(self, writer: Writer, positions: Positions, n: int, layers: Sequence[Layer]) -> None:
        writer.stream(gap_bytes(positions).data)

    def read(self, reader: Reader, count: int, n: int) -> Positions:
        # Each escape skips 255 elements, so there cannot be more than n // 255 of them.
        stream = np.frombuffer(reader.stream_up_to(count + n // ESCAPE), np.uint8)
        last = stream != ESCAPE
        ends = int(np.count_nonzero(last))
        if ends != count or (stream.size and stream[-1] == ESCAPE):
            raise CodecError("positions", f"{ends} gaps for {count} positions")
        # An escape goes 255 elements on, any other byte its gap and the element itself, so the positions increase
        # strictly whatever the bytes are, and only the last can be out of range. The sum is at most 255 times the
        # stream's length.
        steps = (stream + last.view(np.uint8)).astype(np.int64)  # a byte still: 254 + 1 at most
        if count:
            steps[0] -= 1  # the first element is number 0; each of these is 1 or more
        positions: Positions = np.add.accumulate(steps, out=steps)
        if count < stream.size:
            # By indices: a mask copies run by run, and where among the gaps an escape comes no processor can guess.
            positions = positions.take(last.nonzero()[0])
        if count and positions[-1] >= n:
            raise CodecError("positions", f"{positions[-1]} of {n}")
        return positions


PLACES.add(Gaps())
