"""What is done to the bytes, resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

from wire.chain_spec import CodecSpec, Feedback

if TYPE_CHECKING:
    from wire.codecs.model import Rounding


class WarmUp(Struct, frozen=True, kw_only=True):
    """Over the first `rounds` rounds the fraction falls exponentially from `first` to the chain's own."""

    rounds: int = 0
    first: float = 0.25


class AdaptivePlan(Struct, frozen=True, kw_only=True):
    """`compression: auto`: what the coordinator may choose from, and how much of a deadline an upload may take."""

    fraction_min: float = 0.0025
    fraction_max: float = 0.1
    upload_share: float = 0.5


class UplinkPlan(Struct, frozen=True, kw_only=True):
    """With `adaptive` the chain is what a device gets as long as nothing is known of it."""

    chain: CodecSpec = field(default_factory=CodecSpec)
    feedback: Feedback = field(default_factory=Feedback)
    warm_up: WarmUp = field(default_factory=WarmUp)
    bypass: bool = True
    adaptive: AdaptivePlan | None = None


class DownlinkPlan(Struct, frozen=True, kw_only=True):
    """`delta`: the share of its parameters in which a version differs from the one before."""

    quantize: Literal["fp16", "int8", "none"] = "fp16"
    delta: float = 1.0

    @property
    def rounding(self) -> Rounding:
        from wire.codecs.model import Rounding

        return Rounding(self.quantize, self.delta)


class CompressionPlan(Struct, frozen=True, kw_only=True):
    uplink: UplinkPlan = field(default_factory=UplinkPlan)
    downlink: DownlinkPlan = field(default_factory=DownlinkPlan)
