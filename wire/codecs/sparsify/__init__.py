"""Which elements of an update are sent."""

from __future__ import annotations

from wire.codecs.registry import load_stages
from wire.codecs.sparsify.base import SPARSIFIERS, Choice, Sparsifier

load_stages(__name__, list(__path__))

__all__ = ["SPARSIFIERS", "Choice", "Sparsifier"]
