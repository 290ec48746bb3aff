"""Eight bits a value, rounded stochastically: 127 steps each way of the block's largest magnitude."""

from __future__ import annotations

import numpy as np

from wire.codecs.arrays import Float32
from wire.codecs.payload import Reader, Writer
from wire.codecs.quantize.base import QUANTIZERS, Options, Simple
from wire.codecs.quantize.scaled import descale, read_scales, round_stochastically, scales_of, write_scales

LEVELS = 127


class Int8(Simple):
    name = "int8"
    code = 2

    def write(self, writer: Writer, values: Float32, options: Options) -> None:
        scales = scales_of(values, options.block, LEVELS)
        write_scales(writer, scales, options.block)
        steps = round_stochastically(values, scales, options.block, LEVELS, options.rng)
        writer.stream(steps.view(np.uint8).data, noise=True)

    def read(self, reader: Reader, count: int) -> Float32:
        scales, block = read_scales(reader, count)
        return descale(np.frombuffer(reader.stream(count), np.int8), scales, block)

    def error_bound(self, values: Float32, options: Options) -> float:
        # One step; a little more where the division rounds up, or the scale is too small for a float32.
        return float(np.max(scales_of(values, options.block, LEVELS), initial=0.0)) * 1.0001 + 1e-44 * LEVELS


QUANTIZERS.add(Int8())
