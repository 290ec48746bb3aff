"""Rotations that spread the energy of a vector evenly, so that few bits an element suffice."""

from __future__ import annotations

from wire.codecs.registry import load_stages
from wire.codecs.rotate.base import ROTATIONS, Rotation

load_stages(__name__, list(__path__))

__all__ = ["ROTATIONS", "Rotation"]
