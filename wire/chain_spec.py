"""What a topology says about compression, as a task carries it to a device.

Not among the codecs: hostd reads plans, and its image has no numpy.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

StageName = Annotated[str, Meta(max_length=32)]


class Sparsify(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which elements are sent. Every kind says in `check` which of these it wants.

    `fraction`: of the elements (0 < fraction <= 1); `bytes`: instead, as many as fit into a payload of that size;
    `per_layer`: that fraction of every layer rather than of the whole; `threshold`: a magnitude.
    """

    kind: StageName
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
    rotate: StageName = "none"
    quantize: StageName = "none"
    entropy: StageName = "zstd"
    block: int | None = None
    bits: int | None = None
    levels: int | None = None


class Feedback(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of that which a chain leaves out.

    `plain`: it goes into the next update (Seide et al. 2014). `dgc`: so does the device's `momentum` (Lin et al.
    2018, section 3.2). `off`: it is lost, and stages take the scale that is right on average.
    A residual `decay_after` versions old is scaled by `decay_factor` for every version more (None: never).
    `restart: fresh`: what an earlier boot of the device left is not used.
    """

    kind: Literal["plain", "dgc", "off"] = "plain"
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    decay_after: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    decay_factor: Annotated[float, Meta(ge=0, le=1)] = 0.5
    restart: Literal["keep", "fresh"] = "keep"


def uplink_spec(top_k: float | None, quantize: str = "none", entropy: str = "zstd") -> CodecSpec:
    """The commonest chain in short: the largest elements, or all of them, quantized."""
    sparsify = None if top_k is None else Sparsify(kind="top_k", fraction=top_k)
    return CodecSpec(sparsify=sparsify, quantize=quantize, entropy=entropy)
