"""The protocol of sparsifiers and their registry."""

from __future__ import annotations

from typing import Protocol

from wire.codecs.arrays import Float32, Positions
from wire.codecs.registry import Registry
from wire.codecs.spec import Sparsify


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

    def select(self, vector: Float32, options: Sparsify, seed: int) -> Positions:
        """Strictly increasing positions."""

    def draw(self, n: int, count: int, seed: int) -> Positions:
        """The decoder's side of an implied choice."""


SPARSIFIERS: Registry[Sparsifier] = Registry("sparsify")
