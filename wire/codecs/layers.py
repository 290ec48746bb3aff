"""Where the tensors of a model lie in its flat vector, for the stages that care."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Layer(NamedTuple):
    """One tensor: elements start to stop; `rows` is its first dimension, the others make up a row."""

    start: int
    stop: int
    rows: int = 1

    @property
    def columns(self) -> int:
        return (self.stop - self.start) // self.rows


def layers_of(shapes: Sequence[Sequence[int]]) -> tuple[Layer, ...]:
    """Tensors that lie one after the other, in the order of `shapes`."""
    layers, start = [], 0
    for shape in shapes:
        stop = start + math.prod(shape)
        layers.append(Layer(start, stop, shape[0] if len(shape) > 1 else 1))
        start = stop
    return tuple(layers)
