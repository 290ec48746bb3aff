"""What a topology says about compression."""

from __future__ import annotations

from msgspec import Struct


class Sparsify(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which elements are sent. Every kind says in `check` which of these it wants.

    `fraction`: of the elements (0 < fraction <= 1); `bytes`: instead, as many as fit into a payload of that size;
    `per_layer`: that fraction of every layer rather than of the whole; `threshold`: a magnitude.
    """

    kind: str
    fraction: float | None = None
    bytes: int | None = None
    per_layer: bool = False
    threshold: float | None = None


class CodecSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chain: sparsify, rotate, quantize, entropy. Names are those of the stages' registries.

    `bits` is for the quantizers that come in several widths (eden), `levels` for qsgd. `block` is the number of
    values that share a scale (0: all of them; None: all when sparse, 1,024 when dense, where one outlier would
    otherwise cost every small value its precision).
    """

    sparsify: Sparsify | None = None
    rotate: str = "none"
    quantize: str = "none"
    entropy: str = "zstd"
    block: int | None = None
    bits: int | None = None
    levels: int | None = None


def uplink_spec(top_k: float | None, quantize: str = "none", entropy: str = "zstd") -> CodecSpec:
    """The chain of a task's `UplinkSpec`."""
    sparsify = None if top_k is None else Sparsify(kind="top_k", fraction=top_k)
    return CodecSpec(sparsify=sparsify, quantize=quantize, entropy=entropy)
