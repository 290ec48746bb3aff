"""Every element whose magnitude reaches a fixed threshold (Strom 2015): few when little was learnt."""

from __future__ import annotations

import math

import numpy as np

from wire.codecs.arrays import Float32, Positions
from wire.codecs.errors import CodecError
from wire.codecs.sparsify.base import SPARSIFIERS, Choice, no_draw
from wire.codecs.sparsify.top_k import at_least
from wire.codecs.spec import Sparsify


class Threshold:
    name = "threshold"
    code = 2
    implied = False

    def check(self, options: Sparsify) -> None:
        if options.threshold is None or not 0 < options.threshold < math.inf:
            raise CodecError(
                "spec", f"threshold: threshold is {options.threshold}, a positive number is needed"
            )
        if options.fraction is not None or options.bytes is not None or options.per_layer:
            raise CodecError("spec", "threshold: fraction, bytes and per_layer do not apply")

    def select(self, vector: Float32, choice: Choice) -> Positions:
        assert choice.options.threshold is not None
        return at_least(vector, np.float32(choice.options.threshold))

    def draw(self, n: int, count: int, seed: int) -> Positions:
        raise no_draw(self.name)


SPARSIFIERS.add(Threshold())
