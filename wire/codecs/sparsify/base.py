"""The protocol of sparsifiers and their registry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from wire.codecs.arrays import Float32, Positions
from wire.codecs.errors import CodecError
from wire.codecs.layers import Layer
from wire.codecs.registry import Registry
from wire.codecs.spec import Sparsify


@dataclass(frozen=True, slots=True)
class Choice:
    """What a choice of positions may depend on. `layers` lie in order; `seed` is the update's."""

    options: Sparsify
    seed: int
    layers: Sequence[Layer] = ()


class Sparsifier(Protocol):
    """Chooses positions. Stateless: what is left out is the business of error feedback.

    `implied`: the decoder draws the positions itself, from the seed; otherwise they are listed in the
    payload.
    """

    name: str
    code: int
    implied: bool

    def check(self, options: Sparsify) -> None:
        """Raise CodecError("spec") for options that make no sense."""

    def select(self, vector: Float32, choice: Choice) -> Positions:
        """Strictly increasing positions."""

    def draw(self, n: int, count: int, seed: int) -> Positions:
        """The decoder's side of an implied choice. `count` <= n has been checked."""


SPARSIFIERS: Registry[Sparsifier] = Registry("sparsify")


def share(fraction: float, n: int) -> int:
    """How many of n elements a fraction is: at least one, or a tiny tensor would never be sent."""
    return min(n, max(1, round(fraction * n)))


def check_size(options: Sparsify) -> None:
    """For the kinds whose size is chosen by `fraction` or `bytes`: exactly one of them, in range."""
    if (options.fraction is None) == (options.bytes is None):
        raise CodecError("spec", f"{options.kind}: exactly one of fraction and bytes is needed")
    if options.fraction is not None and not 0 < options.fraction <= 1:
        raise CodecError(
            "spec", f"{options.kind}: fraction is {options.fraction}, allowed is 0 < fraction <= 1"
        )
    if options.bytes is not None and options.bytes < BUDGET_BYTES_MIN:
        raise CodecError("spec", f"{options.kind}: bytes is {options.bytes}, at least {BUDGET_BYTES_MIN}")


BUDGET_BYTES_MIN = 128  # headers of every stage and a handful of elements


def no_draw(name: str) -> CodecError:
    return CodecError("stage", f"{name} lists its positions")
