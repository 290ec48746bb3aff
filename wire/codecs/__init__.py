"""Update and model codecs: bytes and arrays only."""

from __future__ import annotations

from wire.codecs.chain import Chain, make_chain
from wire.codecs.decode import LIMITS, Limits, decode
from wire.codecs.decoded import Decoded
from wire.codecs.errors import REASONS, CodecError
from wire.codecs.layers import Layer, layers_of
from wire.codecs.seeds import rounding_seed
from wire.codecs.spec import CodecSpec, Feedback, Sparsify, uplink_spec

__all__ = [
    "LIMITS",
    "REASONS",
    "Chain",
    "CodecError",
    "CodecSpec",
    "Decoded",
    "Feedback",
    "Layer",
    "Limits",
    "Sparsify",
    "decode",
    "layers_of",
    "make_chain",
    "rounding_seed",
    "uplink_spec",
]
