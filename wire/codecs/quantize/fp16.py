"""Nearest float16: eleven bits of precision between 6e-5 and 65,504, steps of 6e-8 below."""

from __future__ import annotations

import numpy as np

from wire.codecs.arrays import FP16_MAX, Float32, to_fp16
from wire.codecs.payload import Reader, Writer
from wire.codecs.quantize.base import QUANTIZERS, Options, Simple, largest


class Float16(Simple):
    name = "fp16"
    code = 1

    def write(self, writer: Writer, values: Float32, options: Options) -> None:
        writer.stream(to_fp16(values).view(np.uint8).data, width=2)

    def read(self, reader: Reader, count: int) -> Float32:
        return np.frombuffer(reader.stream(2 * count), "<f2").astype(np.float32)

    def error_bound(self, values: Float32, options: Options) -> float:
        top = largest(values)
        return max(top - FP16_MAX, top * 2.0**-11, 2.0**-25)


QUANTIZERS.add(Float16())
