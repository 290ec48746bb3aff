"""Nearest bfloat16: the range of float32 with eight bits of precision."""

from __future__ import annotations

import numpy as np

from wire.codecs.arrays import Float32
from wire.codecs.payload import Reader, Writer
from wire.codecs.quantize.base import QUANTIZERS, Options, Simple, largest

BF16_MAX = np.uint32(0x7F7F0000).view(np.float32)


class BFloat16(Simple):
    name = "bf16"
    code = 3

    def write(self, writer: Writer, values: Float32, options: Options) -> None:
        bits = np.clip(values, -BF16_MAX, BF16_MAX).view(np.uint32)
        # Adding just under half of the last place kept, and one more where that place is odd, rounds to even.
        kept = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
        writer.stream(kept.astype("<u2").view(np.uint8).data, width=2)

    def read(self, reader: Reader, count: int) -> Float32:
        kept = np.frombuffer(reader.stream(2 * count), "<u2").astype(np.uint32)
        return (kept << np.uint32(16)).view(np.float32)

    def error_bound(self, values: Float32, options: Options) -> float:
        return largest(values) * 2.0**-8 + 1e-40


QUANTIZERS.add(BFloat16())
