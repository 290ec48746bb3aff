"""Reference models, built with onnx.helper: ordinary inference graphs with seeded parameters, no torch
needed.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from learning.models.sequence import conv1d, gru, transformer
from learning.models.vision import cnn, mlp, mobile_cnn

MODELS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "cnn": cnn,
    "conv1d": conv1d,
    "gru": gru,
    "mlp": mlp,
    "mobile-cnn": mobile_cnn,
    "transformer": transformer,
}


def build_model(name: str, seed: int = 0) -> onnx.ModelProto:
    """An inference model by name; the same seed gives the same parameters on every platform."""
    if name not in MODELS:
        raise ValueError(
            f"unknown model {name!r}: choose one of {', '.join(sorted(MODELS))}, or give an .onnx file"
        )
    return MODELS[name](seed)


__all__ = ["MODELS", "build_model"]
