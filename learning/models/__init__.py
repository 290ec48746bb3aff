"""Reference models, built with onnx.helper: ordinary inference graphs with seeded parameters, no torch
needed.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from learning.models.vision import cnn, mlp

MODELS: dict[str, Callable[[int], onnx.ModelProto]] = {"cnn": cnn, "mlp": mlp}


def build_model(name: str, seed: int = 0) -> onnx.ModelProto:
    """An inference model by name; the same seed gives the same parameters on every platform."""
    if name not in MODELS:
        raise ValueError(
            f"unknown model {name!r}: choose one of {', '.join(sorted(MODELS))}, or give an .onnx file"
        )
    return MODELS[name](seed)


__all__ = ["MODELS", "build_model"]
