"""float32 as it is."""

from __future__ import annotations

import numpy as np

from wire.codecs.arrays import Float32
from wire.codecs.payload import Reader, Writer
from wire.codecs.quantize.base import QUANTIZERS, Options, Simple


class Unquantized(Simple):
    name = "none"
    code = 0

    def write(self, writer: Writer, values: Float32, options: Options) -> None:
        writer.stream(values.astype("<f4", copy=False).view(np.uint8).data, width=4)

    def read(self, reader: Reader, count: int) -> Float32:
        return np.frombuffer(reader.stream(4 * count), "<f4").astype(np.float32, copy=False)

    def error_bound(self, values: Float32, options: Options) -> float:
        return 0.0


QUANTIZERS.add(Unquantized())
