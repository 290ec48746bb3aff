"""Gradients over ONNX, models, data sets, partitions (operator's side) and the trainer (device's side)."""

import os

# From 1.29 on onnxruntime sends usage data to its vendor unless it is told not to before it is first
# imported. A run's traffic is the run's own, in containers, in processes and on real devices alike.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
