"""The rules, by family. Importing this package fills `registry.RULES`."""

from learning.autodiff.rules import convolution, elementwise, matrix, pooling, reduction, shapes

__all__ = ["convolution", "elementwise", "matrix", "pooling", "reduction", "shapes"]
