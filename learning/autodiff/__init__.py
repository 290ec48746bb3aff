"""Reverse-mode differentiation over ONNX: an inference model in, a graph of its gradients out.

Operator's side only: this package needs `onnx`; what it makes is run on devices by plain onnxruntime.

How it works, in the order of the files:
 observe.py     binds every dynamic dimension, runs the model once and notes shape, type and constants of each
 value; parameters.py  decides which initializers are weights, and says why;
 graph.py       a growing graph and its symbolic tensors, so that a rule reads like the formula it is;
 rewrite.py, gelu.py, layout.py  say some parts of the forward pass in forms that differentiate, or run, better;
 rules/         the table: operator → gradient, one small function each;
 backward.py    walks the model from the loss to the parameters with that table;
 losses.py      the heads: per-sample loss and its gradient;
 training_graph.py puts it together and writes the TrainingArtifact.
"""

from learning.autodiff.errors import AutodiffError, UnsupportedOperator
from learning.autodiff.training_graph import build_training_graph, initial_parameters

__all__ = ["AutodiffError", "UnsupportedOperator", "build_training_graph", "initial_parameters"]
