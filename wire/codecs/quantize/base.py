"""The protocol of quantizers and their registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from wire.codecs.arrays import Float32
from wire.codecs.payload import Reader, Writer
from wire.codecs.registry import Registry


@dataclass(frozen=True, slots=True)
class Options:
    """What an encoder may need beside the values. `block`: values that share a scale, 0 = all."""

    rng: np.random.Generator
    block: int = 0


class Quantizer(Protocol):
    """Stores values; stateless. `read` must not depend on anything but the bytes and the count."""

    name: str
    code: int

    def write(self, writer: Writer, values: Float32, options: Options) -> None:
        """Values are finite; the result must decode to finite ones."""

    def read(self, reader: Reader, count: int) -> Float32:
        """float32[count], perhaps not finite (the chain checks); CodecError if the bytes are not right."""

    def error_bound(self, values: Float32, block: int) -> float:
        """The largest |value - decoded| that can occur, for tests and for choosing a chain."""


QUANTIZERS: Registry[Quantizer] = Registry("quantize")
