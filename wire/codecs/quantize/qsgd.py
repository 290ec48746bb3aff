"""QSGD (Alistarh et al. 2017): `levels` steps of the block's Euclidean norm, rounded stochastically.

Unbiased; sparse by itself at few levels, since most values are far below the norm and round to zero. The
steps are stored as bytes and left to the entropy stage, where the paper has Elias codes.
"""

from __future__ import annotations

import numpy as np

from wire.codecs.arrays import Float32
from wire.codecs.errors import CodecError
from wire.codecs.payload import Reader, Writer
from wire.codecs.quantize.base import QUANTIZERS, Options
from wire.codecs.quantize.scaled import descale, read_scales, round_stochastically, write_scales
from wire.codecs.spec import CodecSpec

LEVELS_DEFAULT = 16
LEVELS_MAX = 127  # a step is stored as a signed byte


def norm_scales(values: Float32, block: int, levels: int) -> Float32:
    """Per block its norm / levels."""
    if not values.size:
        return np.zeros(0, np.float32)
    starts = np.arange(0, values.size, block or values.size)
    squares = np.add.reduceat(np.square(values, dtype=np.float64), starts)
    scales = np.minimum(np.sqrt(squares), float(np.finfo(np.float32).max)) / levels
    return np.nextafter(
        scales.astype(np.float32), np.float32(0), where=scales > 1e30, out=scales.astype(np.float32)
    )


class Qsgd:
    name = "qsgd"
    code = 6

    def check(self, spec: CodecSpec) -> None:
        if spec.levels is not None and not 1 <= spec.levels <= LEVELS_MAX:
            raise CodecError("spec", f"qsgd: levels is {spec.levels}, allowed is 1 to {LEVELS_MAX}")

    def write(self, writer: Writer, values: Float32, options: Options) -> None:
        levels = options.spec.levels or LEVELS_DEFAULT
        scales = norm_scales(values, options.block, levels)
        write_scales(writer, scales, options.block)
        steps = round_stochastically(values, scales, options.block, levels, options.rng)
        writer.stream(steps.view(np.uint8).data, noise=True)

    def read(self, reader: Reader, count: int) -> Float32:
        scales, block = read_scales(reader, count)
        return descale(np.frombuffer(reader.stream(count), np.int8), scales, block)

    def error_bound(self, values: Float32, options: Options) -> float:
        scales = norm_scales(values, options.block, options.spec.levels or LEVELS_DEFAULT)
        return float(np.max(scales, initial=0.0)) * 1.0001 + 1e-42


QUANTIZERS.add(Qsgd())
