"""The protocol of quantizers and their registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from wire.codecs.arrays import Float32
from wire.codecs.payload import Reader, Writer
from wire.codecs.registry import Registry
from wire.codecs.spec import CodecSpec


@dataclass(frozen=True, slots=True)
class Options:
    """What an encoder may need beside the values. `block`: values that share a scale, 0 = all.

    `unbiased`: the update is not followed by error feedback, so a stage that has the choice between the least
    error and none on average takes the latter.
    """

    spec: CodecSpec
    rng: np.random.Generator
    block: int = 0
    unbiased: bool = False


class Quantizer(Protocol):
    """Stores values; stateless. `read` must not depend on anything but the bytes and the count."""

    name: str
    code: int

    def check(self, spec: CodecSpec) -> None:
        """Raise CodecError("spec") for a chain this quantizer cannot be part of."""

    def write(self, writer: Writer, values: Float32, options: Options) -> None:
        """Values are finite; the result must decode to finite ones."""

    def read(self, reader: Reader, count: int) -> Float32:
        """float32[count], perhaps not finite (the chain checks); CodecError if the bytes are not right."""

    def error_bound(self, values: Float32, options: Options) -> float:
        """The largest |value - decoded| that can occur, for tests and for choosing a chain."""


class Simple:
    """A quantizer that goes with every chain."""

    def check(self, spec: CodecSpec) -> None:
        return


QUANTIZERS: Registry[Quantizer] = Registry("quantize")


def largest(values: Float32) -> float:
    return float(np.max(np.abs(values), initial=0.0))
