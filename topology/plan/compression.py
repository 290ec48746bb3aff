"""What is done to the bytes, resolved."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field


class UplinkPlan(Struct, frozen=True, kw_only=True):
    top_k: float | None = None
    quantize: Literal["none", "fp16", "int8"] = "none"
    entropy: Literal["none", "zstd"] = "zstd"


class CompressionPlan(Struct, frozen=True, kw_only=True):
    uplink: UplinkPlan = field(default_factory=UplinkPlan)
    downlink: Literal["fp16", "none"] = "fp16"
