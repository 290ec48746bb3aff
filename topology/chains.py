"""The chain that an `uplink` section asks for."""

from __future__ import annotations

from topology.schema.compression import Kept, Sparsify, Uplink
from wire.codecs import spec

# What `auto` gives a device of which nothing is known yet.
ADAPTIVE_FIRST = spec.CodecSpec(
    sparsify=spec.Sparsify(kind="top_k", fraction=0.01), quantize="int8", entropy="smallest"
)


def chain_of(uplink: Uplink) -> spec.CodecSpec:
    """The chain as the codecs know it; whether its parts go together is for them to say."""
    if uplink.adaptive is not None:
        return ADAPTIVE_FIRST
    return spec.CodecSpec(
        sparsify=_sparsify_of(uplink.sparsify),
        rotate=uplink.rotate,
        quantize=uplink.quantize,
        entropy=uplink.entropy,
        block=uplink.block,
        bits=uplink.bits,
        levels=uplink.levels,
    )


def _sparsify_of(given: Sparsify | None) -> spec.Sparsify | None:
    if given is None:
        return None
    if given.threshold is not None:
        return spec.Sparsify(kind="threshold", threshold=given.threshold, per_layer=given.per_layer)
    kind, kept = ("top_k", given.top_k) if given.top_k is not None else ("random_k", given.random_k)
    kept = kept or Kept()
    return spec.Sparsify(kind=kind, fraction=kept.fraction, bytes=kept.size_bytes, per_layer=given.per_layer)
