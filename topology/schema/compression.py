"""What is done to the bytes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from topology.fields import Fraction, Strict


class Sparsify(Strict):
    """Keep the largest entries of an update; the rest stays on the device as residual."""

    top_k: Annotated[Fraction, Field(description="Share of entries that is sent.")]


def _none_is_absent(value: Any) -> Any:
    return None if value == "none" else value


class Uplink(Strict):
    """From the devices: sparsify, then quantize, then entropy-code. All with error feedback."""

    sparsify: Annotated[
        Sparsify | None, BeforeValidator(_none_is_absent), Field(description="`none`, or {top_k: 0.01}.")
    ] = None
    quantize: Literal["none", "fp16", "int8"] = "none"
    entropy: Literal["none", "zstd"] = "zstd"


class Downlink(Strict):
    """To the devices: float16 versions with server-side error feedback, or exact float32."""

    quantize: Literal["none", "fp16"] = "fp16"


class Compression(Strict):
    """What is done to the bytes, per direction."""

    uplink: Uplink = Uplink()
    downlink: Downlink = Downlink()
