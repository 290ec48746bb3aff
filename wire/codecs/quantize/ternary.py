"""A sign and one magnitude for all: sparse ternary compression (Sattler et al. 2019), after a sparsifier.

The magnitude is the mean over the values that are *sent*. (Taken over all coordinates, zeros included, it shrinks the
update by the sparsity, a hundredfold at 1 %.)
"""

from __future__ import annotations

import struct

import numpy as np

from wire.codecs.arrays import Float32
from wire.codecs.errors import CodecError
from wire.codecs.payload import Reader, Writer
from wire.codecs.quantize.base import QUANTIZERS, Options, largest
from wire.codecs.spec import CodecSpec

MEAN = struct.Struct("<f")


class Ternary:
    name = "ternary"
    code = 5

    def check(self, spec: CodecSpec) -> None:
        if spec.sparsify is None:
            raise CodecError("spec", "ternary: needs a sparsifier, its third value is what that leaves out")

    def write(self, writer: Writer, values: Float32, options: Options) -> None:
        mean = float(np.abs(values).mean(dtype=np.float64)) if values.size else 0.0
        writer.raw(MEAN.pack(mean))
        # Signs run: weights of one output unit tend to move the same way, which zstd sees in the packed bits.
        writer.stream(np.packbits(values < 0).data)

    def read(self, reader: Reader, count: int) -> Float32:
        (mean,) = MEAN.unpack(reader.raw(MEAN.size))
        if not 0 <= mean < np.inf:
            raise CodecError("scale", f"{mean}")
        packed = np.frombuffer(reader.stream(-(-count // 8)), np.uint8)
        negative = np.unpackbits(packed, count=count).view(bool)
        return np.where(negative, np.float32(-mean), np.float32(mean))

    def error_bound(self, values: Float32, options: Options) -> float:
        return largest(values) * (1 + 2.0**-23)


QUANTIZERS.add(Ternary())
