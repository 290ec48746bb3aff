"""The rules, by family. Importing this package fills `registry.RULES`."""

from learning.autodiff.rules import (
    convolution,
    elementwise,
    matrix,
    normalization,
    pooling,
    reduction,
    shapes,
)

__all__ = ["convolution", "elementwise", "matrix", "normalization", "pooling", "reduction", "shapes"]
