"""An onnxruntime session over an artifact's graph, for one thread and little memory.

Inputs and outputs are bound to numpy buffers once. Parameters are bound as inputs and changed in place
between steps; gradients are written straight into one flat vector. No buffer is ever input and output of the
same run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from learning.artifact import ArtifactError, Flat, TrainingArtifact, unflatten
from learning.resident import release_code_pages

INPUT_TYPES = {"uint8": np.uint8, "float32": np.float32, "int64": np.int64, "int32": np.int32}


def open_session(graph: bytes, threads: int, written_order: bool = False) -> ort.InferenceSession:
    """`written_order`: see TrainingArtifact. Raises ArtifactError if onnxruntime refuses the graph."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Spinning threads would burn the CPU quota of a throttled device while waiting for nothing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Measured on the cnn at batch 16 (benchmarks.memory): the memory pattern keeps one block for all
    # activations, 12 MB more at the peak; without the arena the peak is the same and a step takes 8 % longer
    # (page faults).
    options.enable_mem_pattern = False
    if written_order:
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtifactError(f"onnxruntime {ort.__version__} cannot load the graph: {error}") from error


class StepSession:
    """Loss and gradients of one batch. `params` and `grad` are flat; views of them are bound for good."""

    def __init__(self, artifact: TrainingArtifact, params: Flat, grad: Flat, threads: int = 1) -> None:
        self.session = open_session(artifact.training, threads, artifact.written_order)
        batch = artifact.batch_size
        self.x = np.zeros((batch, *artifact.input.shape), INPUT_TYPES[artifact.input.dtype])
        label_type = np.int64 if artifact.labels.dtype == "int64" else np.float32
        self.labels: npt.NDArray[Any] = np.zeros((batch, *artifact.labels.shape), label_type)
        self.weights = np.ones(batch, np.float32)
        self.loss_sum = np.zeros((), np.float32)
        self.correct = np.zeros((), np.float32)
        self.noise = {spec.name: np.zeros(spec.shape, np.float32) for spec in artifact.noise}
        self._keep: list[ort.OrtValue] = []
        self._binding = self.session.io_binding()
        self._bind(artifact, params, grad)
        # Measured on the cnn at batch 16 (benchmarks.memory): 16 MB less at the peak, no time that shows.
        release_code_pages()

    def _bind(self, artifact: TrainingArtifact, params: Flat, grad: Flat) -> None:
        self._input("x", self.x)
        self._input("labels", self.labels)
        self._input("weights", self.weights)
        for name, array in self.noise.items():
            self._input(name, array)
        for name, view in unflatten(artifact, params).items():
            self._input(f"p:{name}", view)
        self._output("loss_sum", self.loss_sum)
        if artifact.counts_correct:
            self._output("correct", self.correct)
        for name, view in unflatten(artifact, grad).items():
            self._output(f"g:{name}", view)

    def _value(self, array: npt.NDArray[Any]) -> ort.OrtValue:
        value = ort.OrtValue.ortvalue_from_numpy(array)
        if value.data_ptr() != array.ctypes.data:
            raise ArtifactError("onnxruntime copied a buffer instead of binding it: gradients would be lost")
        self._keep.append(value)
        return value

    def _input(self, name: str, array: npt.NDArray[Any]) -> None:
        self._binding.bind_ortvalue_input(name, self._value(array))

    def _output(self, name: str, array: npt.NDArray[Any]) -> None:
        self._binding.bind_ortvalue_output(name, self._value(array))

    def run(self) -> float:
        """One step over what is in x, labels and weights. Returns Σ weight·loss."""
        self.session.run_with_iobinding(self._binding)
        return float(self.loss_sum)


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far (VmHWM), in MB of 10⁶ bytes; 0.0 where /proc is missing."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return 0.0
