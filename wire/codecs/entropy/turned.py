"""Positions with every matrix read by columns.

The gradient of a fully connected layer is a sum of outer products, and an input that never fires leaves its
whole column untouched. Along columns the positions therefore cluster more than along rows: 6 % smaller on the
cnn.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from wire.codecs.arrays import Positions
from wire.codecs.entropy.base import PLACES
from wire.codecs.errors import CodecError
from wire.codecs.layers import Layer
from wire.codecs.payload import Reader, Writer

TABLE = struct.Struct("<B")
ENTRY = struct.Struct("<III")  # start, stop, rows
MATRICES_MAX = 255
ELEMENTS_MIN = 4_096  # a smaller matrix saves less than its entry in the table costs


def turn(positions: Positions, matrices: Sequence[Layer], *, back: bool = False) -> Positions:
    """Positions after transposing (or transposing back) every matrix, increasing."""
    turned = positions.copy()
    for layer in matrices:
        first, last = np.searchsorted(positions, (layer.start, layer.stop))
        inside = positions[first:last] - layer.start
        width, other = (layer.rows, layer.columns) if back else (layer.columns, layer.rows)
        turned[first:last] = np.sort(inside % width * other + inside // width) + layer.start
    return turned


def worth_turning(positions: Positions, layer: Layer) -> bool:
    """Whether the gaps of a matrix are smaller along its columns, by the bits their magnitudes need."""
    if layer.rows < 2 or layer.columns < 2 or layer.stop - layer.start < ELEMENTS_MIN:
        return False
    first, last = np.searchsorted(positions, (layer.start, layer.stop))
    by_rows = positions[first:last] - layer.start
    by_columns = np.sort(by_rows % layer.columns * layer.rows + by_rows // layer.columns)
    bits_rows, bits_columns = (float(np.log2(np.diff(each)).sum()) for each in (by_rows, by_columns))
    return bits_columns + 8 * ENTRY.size < bits_rows


class Turned:
    name = "turned"
    code = 3

    def bytes_min(self, positions: Positions, n: int) -> int:
        return 0

    def write(self, writer: Writer, positions: Positions, n: int, layers: Sequence[Layer]) -> None:
        matrices = [layer for layer in layers if worth_turning(positions, layer)][:MATRICES_MAX]
        writer.raw(TABLE.pack(len(matrices)))
        for layer in matrices:
            writer.raw(ENTRY.pack(*layer))
        PLACES.named("binned").write(writer, turn(positions, matrices), n, ())

    def read(self, reader: Reader, count: int, n: int) -> Positions:
        (number,) = TABLE.unpack(reader.raw(TABLE.size))
        matrices = [Layer(*ENTRY.unpack(reader.raw(ENTRY.size))) for _ in range(number)]
        end = 0
        for layer in matrices:
            if not end <= layer.start < layer.stop <= n or not layer.rows:
                raise CodecError("positions", "matrices out of range or overlapping")
            if layer.rows * layer.columns != layer.stop - layer.start:
                raise CodecError("positions", "a matrix with an incomplete row")
            end = layer.stop
        # Transposing disjoint matrices is a permutation, so what was strictly increasing stays distinct and
        # in range.
        return turn(PLACES.named("binned").read(reader, count, n), matrices, back=True)


PLACES.add(Turned())
