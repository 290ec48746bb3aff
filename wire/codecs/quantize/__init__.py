"""How the values of an update are stored."""

from __future__ import annotations

from wire.codecs.quantize.base import QUANTIZERS, Options, Quantizer
from wire.codecs.registry import load_plugins, load_stages

load_stages(__name__, list(__path__))
load_plugins("edgerig.quantizers", QUANTIZERS)

__all__ = ["QUANTIZERS", "Options", "Quantizer"]
