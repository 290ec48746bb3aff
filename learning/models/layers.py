"""A small builder for reference models: layers append nodes and draw their parameters from one seeded
stream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17  # the oldest that has every operator used here: runs on any onnxruntime since 1.12
IR_VERSION = 8


class Net:
    """One model under construction; every method takes and returns value names."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._count = 0

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        return self.ops(op_type, *inputs, outputs=1, **attributes)[0]

    def ops(self, op_type: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        self._count += 1
        label = f"{op_type.lower()}_{self._count}"
        names = [label if outputs == 1 else f"{label}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=label, **attributes))
        return names

    def tensor(self, name: str, value: npt.NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def ints(self, *values: int) -> str:
        self._count += 1
        return self.tensor(f"shape_{self._count}", np.asarray(values, np.int64))

    def scalar(self, value: float) -> str:
        self._count += 1
        return self.tensor(f"scalar_{self._count}", np.asarray(value, np.float32))

    def uniform(self, name: str, shape: Sequence[int], fan_in: int) -> str:
        """U(−1/√fan_in, 1/√fan_in), PyTorch's default for layers and their biases."""
        bound = 1.0 / math.sqrt(fan_in)
        return self.tensor(name, self._rng.uniform(-bound, bound, tuple(shape)).astype(np.float32))

    def normal(self, name: str, shape: Sequence[int], deviation: float) -> str:
        return self.tensor(name, (self._rng.standard_normal(tuple(shape)) * deviation).astype(np.float32))

    def linear(self, name: str, x: str, inputs: int, outputs: int) -> str:
        weight = self.uniform(f"{name}.weight", (outputs, inputs), inputs)
        bias = self.uniform(f"{name}.bias", (outputs,), inputs)
        return self.op("Gemm", x, weight, bias, transB=1)

    def conv(
        self,
        name: str,
        x: str,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        groups: int = 1,
        **attributes: Any,
    ) -> str:
        fan_in = inputs // groups * math.prod(kernel)
        weight = self.uniform(f"{name}.weight", (outputs, inputs // groups, *kernel), fan_in)
        bias = self.uniform(f"{name}.bias", (outputs,), fan_in)
        return self.op("Conv", x, weight, bias, group=groups, **attributes)

    def model(
        self, sample: Sequence[int], output: str, result: Sequence[int], element: int = TensorProto.FLOAT
    ) -> onnx.ModelProto:
        """Close the graph: input `input` [batch, *sample], output `logits` [batch, *result]."""
        self.nodes.append(helper.make_node("Identity", [output], ["logits"]))
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info("input", element, ["batch", *sample])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", *result])],
            initializer=self.initializers,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="edgerig"
        )
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model)
        return model
