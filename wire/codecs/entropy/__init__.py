"""Lossless packings of byte streams, and the codes of position lists."""

from __future__ import annotations

from wire.codecs.entropy.base import CHOICES, PACKINGS, PLACES, Place, read_places, write_places
from wire.codecs.registry import load_stages

load_stages(__name__, list(__path__))

__all__ = ["CHOICES", "PACKINGS", "PLACES", "Place", "read_places", "write_places"]
