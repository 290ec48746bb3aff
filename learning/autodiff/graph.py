"""A growing ONNX graph and symbolic tensors over it.

A rule writes `n.dy * n.y * (1 - n.y)`; every operator appends one node and returns the tensor it makes.
Shapes are known for the forward pass (they were observed); a gradient always has the shape of what it is the
gradient of, so a rule that needs a shape takes it from there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16))


@dataclass(frozen=True)
class Tensor:
    """One value of a graph. `shape` and `dtype` are None where nobody needs them."""

    name: str
    graph: Graph
    shape: Shape | None = None
    dtype: np.dtype[Any] | None = None

    @property
    def dims(self) -> Shape:
        if self.shape is None:
            raise AssertionError(f"shape of {self.name} was never observed")
        return self.shape

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def value(self) -> Array | None:
        """The constant behind this tensor, if it is one."""
        return self.graph.constants.get(self.name)

    def __add__(self, other: Tensor | float) -> Tensor:
        return self._binary("Add", other)

    def __sub__(self, other: Tensor | float) -> Tensor:
        return self._binary("Sub", other)

    def __mul__(self, other: Tensor | float) -> Tensor:
        return self._binary("Mul", other)

    def __truediv__(self, other: Tensor | float) -> Tensor:
        return self._binary("Div", other)

    def __radd__(self, other: float) -> Tensor:
        return self._lift(other)._binary("Add", self)

    def __rsub__(self, other: float) -> Tensor:
        return self._lift(other)._binary("Sub", self)

    def __rmul__(self, other: float) -> Tensor:
        return self._lift(other)._binary("Mul", self)

    def __rtruediv__(self, other: float) -> Tensor:
        return self._lift(other)._binary("Div", self)

    def __neg__(self) -> Tensor:
        return self.graph.op("Neg", self)

    def _binary(self, op_type: str, other: Tensor | float) -> Tensor:
        return self.graph.op(op_type, self, other if isinstance(other, Tensor) else self._lift(other))

    def _lift(self, number: float) -> Tensor:
        return self.graph.constant(np.asarray(number, self.dtype or self.graph.dtype))


class Graph:
    """Nodes, constants and inputs of the graph under construction. `dtype` is the model's float type, `taken`
    the names that the model has given.
    """

    def __init__(
        self, opset: int, dtype: np.dtype[Any] | None = None, taken: Collection[str] = frozenset()
    ) -> None:
        self.opset = opset
        self.dtype = dtype or np.dtype(np.float32)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self._pool: dict[tuple[str, Shape, bytes], str] = {}
        self.prefix = "_"
        self.taken = taken
        self._counter = 0

    def fresh(self, stem: str) -> str:
        self._counter += 1
        name = f"{self.prefix}{stem.lower()}_{self._counter}"
        return self.fresh(stem) if name in self.taken else name

    def constant(self, value: npt.ArrayLike) -> Tensor:
        """A constant; equal ones are stored once."""
        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        name = self._pool.get(key)
        if name is None:
            name = self._pool[key] = self.fresh("const")
            self.constants[name] = array
        return Tensor(name, self, array.shape, array.dtype)

    def ints(self, values: Sequence[int]) -> Tensor:
        return self.constant(np.asarray(values, np.int64))

    def op(self, op_type: str, *inputs: Tensor | None, domain: str = "", **attributes: Any) -> Tensor:
        return self.ops(op_type, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: Tensor | None, outputs: int, domain: str = "", **attributes: Any
    ) -> list[Tensor]:
        names = [self.fresh(op_type) for _ in range(outputs)]
        arguments = ["" if tensor is None else tensor.name for tensor in inputs]
        self.nodes.append(
            helper.make_node(op_type, arguments, names, name=names[0], domain=domain, **attributes)
        )
        dtype = next((tensor.dtype for tensor in inputs if tensor is not None), None)
        return [Tensor(name, self, None, dtype) for name in names]

    # The few operators whose calling form is awkward or changed between opsets.

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        made = self.op("Reshape", x, self.ints(shape))
        return Tensor(made.name, self, tuple(shape), x.dtype)

    def transpose(self, x: Tensor, order: Sequence[int]) -> Tensor:
        return self.op("Transpose", x, perm=list(order))

    def swap_last(self, x: Tensor, rank: int) -> Tensor:
        return self.transpose(x, [*range(rank - 2), rank - 1, rank - 2])

    def cast(self, x: Tensor, dtype: np.dtype[Any] | type) -> Tensor:
        target = np.dtype(dtype)
        made = self.op("Cast", x, to=int(helper.np_dtype_to_tensor_dtype(target)))
        return Tensor(made.name, self, x.shape, target)

    def sum(self, x: Tensor, axes: Sequence[int], keep: bool = False) -> Tensor:
        return self.op("ReduceSum", x, self.ints(axes), keepdims=int(keep))

    def mean(self, x: Tensor, axes: Sequence[int], keep: bool = True) -> Tensor:
        if self.opset >= 18:
            return self.op("ReduceMean", x, self.ints(axes), keepdims=int(keep))
        return self.op("ReduceMean", x, axes=list(axes), keepdims=int(keep))

    def slice(
        self, x: Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]
    ) -> Tensor:
        return self.op("Slice", x, self.ints(starts), self.ints(ends), self.ints(axes), self.ints(steps))

    def pad(self, x: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
        """Zero padding; negative amounts crop."""
        if not any(before) and not any(after):
            return x
        return self.op("Pad", x, self.ints([*before, *after]))

    def where(self, condition: Tensor, yes: Tensor | float, no: Tensor | float) -> Tensor:
        dtype = next((t.dtype for t in (yes, no) if isinstance(t, Tensor)), None) or self.dtype
        lift = [t if isinstance(t, Tensor) else self.constant(np.asarray(t, dtype)) for t in (yes, no)]
        made = self.op("Where", condition, *lift)
        return Tensor(made.name, self, None, dtype)

    def zeros(self, shape: Sequence[int], dtype: np.dtype[Any] | None = None) -> Tensor:
        """Made on the device, so that a large one costs no bytes in the artifact."""
        value = numpy_helper.from_array(np.zeros(1, dtype or self.dtype))
        made = self.op("ConstantOfShape", self.ints(shape), value=value)
        return Tensor(made.name, self, tuple(shape), dtype or self.dtype)

    def zeros_like(self, x: Tensor) -> Tensor:
        return self.zeros(x.dims, x.dtype)

    def unbroadcast(self, grad: Tensor, source: Shape, target: Shape) -> Tensor:
        """Sum a gradient of shape `source` over the axes along which an input of shape `target` was
        repeated.
        """
        if source == target:
            return grad
        lead = len(source) - len(target)
        axes = [axis for axis in range(len(source)) if axis < lead or target[axis - lead] != source[axis]]
        summed = self.sum(grad, axes, keep=lead == 0)
        if lead and len(axes) > lead:
            return self.reshape(summed, target)
        return Tensor(summed.name, self, target, grad.dtype)

    def initializers(self, used: set[str]) -> list[onnx.TensorProto]:
        return [
            numpy_helper.from_array(np.asarray(array, order="C"), name)
            for name, array in self.constants.items()
            if name in used
        ]


def prune(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that `outputs` need, in their order, and every name they use."""
    needed = set(outputs)
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(name for name in node.input if name)
    return kept[::-1], needed
