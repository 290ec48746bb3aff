"""A second opinion: the same ONNX model run by PyTorch, its gradients by PyTorch's autograd.

For `edgerig model check` and for tests, where PyTorch is installed. Covers what the reference models and
ordinary exported models use; operators are translated one by one, nothing is shared with the gradient rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from learning.autodiff.errors import AutodiffError

Array = npt.NDArray[Any]
Translate = Callable[[Any, list[Any], dict[str, Any]], Any]


def _conv(torch: Any, x: list[Any], a: dict[str, Any]) -> Any:
    rank = x[1].dim() - 2
    function = torch.nn.functional.conv1d if rank == 1 else torch.nn.functional.conv2d
    pads = a.get("pads", [0] * 2 * rank)
    padded = torch.nn.functional.pad(x[0], _torch_pads(pads))
    bias = x[2] if len(x) > 2 else None
    return function(
        padded,
        x[1],
        bias,
        stride=a.get("strides", [1] * rank),
        dilation=a.get("dilations", [1] * rank),
        groups=a.get("group", 1),
    )


def _torch_pads(pads: list[int]) -> list[int]:
    """ONNX: begins, then ends. PyTorch: pairs, last axis first."""
    half = len(pads) // 2
    return [p for axis in reversed(range(half)) for p in (pads[axis], pads[axis + half])]


def _pool(kind: str) -> Translate:
    def run(torch: Any, x: list[Any], a: dict[str, Any]) -> Any:
        rank = x[0].dim() - 2
        function = getattr(torch.nn.functional, f"{kind}_pool{rank}d")
        pads = a.get("pads", [0] * 2 * rank)
        options: dict[str, Any] = {"ceil_mode": bool(a.get("ceil_mode", 0))}
        if kind == "avg":
            options["count_include_pad"] = bool(a.get("count_include_pad", 0))
        return function(
            x[0], a["kernel_shape"], stride=a.get("strides", [1] * rank), padding=pads[:rank], **options
        )

    return run


def _gemm(torch: Any, x: list[Any], a: dict[str, Any]) -> Any:
    left = x[0].T if a.get("transA") else x[0]
    right = x[1].T if a.get("transB") else x[1]
    y = a.get("alpha", 1.0) * (left @ right)
    return y + a.get("beta", 1.0) * x[2] if len(x) > 2 else y


def _recurrent(kind: str) -> Translate:
    order = {"GRU": [1, 0, 2], "LSTM": [0, 2, 3, 1]}[kind]  # ONNX's gates in PyTorch's order

    def run(torch: Any, x: list[Any], a: dict[str, Any]) -> Any:
        hidden, both = a["hidden_size"], a.get("direction", "forward") == "bidirectional"
        flat = []
        for way in range(2 if both else 1):
            weight, recurrent = (torch.cat([t[way].split(hidden)[i] for i in order]) for t in x[1:3])
            parts = x[3][way].split(len(order) * hidden)
            flat += [weight, recurrent, *(torch.cat([p.split(hidden)[i] for i in order]) for p in parts)]
        zeros = torch.zeros(1 + both, x[0].shape[1], hidden)
        h, c = (x[i] if len(x) > i and x[i] is not None else zeros for i in (5, 6))
        start = h if kind == "GRU" else (h, c)
        y, *last = getattr(torch, kind.lower())(x[0], start, flat, True, 1, 0.0, True, both, False)
        return y.reshape(*y.shape[:2], 1 + both, hidden).transpose(1, 2), *last

    return run


def _conv_transpose(torch: Any, x: list[Any], a: dict[str, Any]) -> Any:
    rank = x[1].dim() - 2
    function = torch.nn.functional.conv_transpose1d if rank == 1 else torch.nn.functional.conv_transpose2d
    pads = a.get("pads", [0] * 2 * rank)
    if pads[:rank] != pads[rank:]:
        raise AutodiffError("ConvTranspose with uneven pads is not translated for the check")
    return function(
        x[0],
        x[1],
        x[2] if len(x) > 2 else None,
        stride=a.get("strides", [1] * rank),
        padding=pads[:rank],
        output_padding=a.get("output_padding", [0] * rank),
        dilation=a.get("dilations", [1] * rank),
        groups=a.get("group", 1),
    )


def _constant_of_shape(torch: Any, x: list[Any], a: dict[str, Any]) -> Any:
    value = torch.tensor(numpy_helper.to_array(a["value"])) if "value" in a else torch.zeros(1)
    return value.expand(x[0].tolist()).clone()


def _norm(torch: Any, x: list[Any], a: dict[str, Any]) -> Any:
    axis = a.get("axis", -1)
    return torch.nn.functional.layer_norm(
        x[0], x[0].shape[axis:], x[1], x[2] if len(x) > 2 else None, a.get("epsilon", 1e-5)
    )


def _slice(torch: Any, x: list[Any], _: dict[str, Any]) -> Any:
    starts, ends = x[1].tolist(), x[2].tolist()
    axes = x[3].tolist() if len(x) > 3 else range(len(starts))
    steps = x[4].tolist() if len(x) > 4 else [1] * len(starts)
    y = x[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        chosen = torch.arange(y.shape[axis])[slice(start, end)][::step]
        y = y.index_select(axis, chosen)
    return y


def _reshape(_: Any, x: list[Any], __: dict[str, Any]) -> Any:
    return x[0].reshape([x[0].shape[i] if size == 0 else size for i, size in enumerate(x[1].tolist())])


def _split(_: Any, x: list[Any], a: dict[str, Any]) -> Any:
    axis = a.get("axis", 0)
    sizes = x[1].tolist() if len(x) > 1 else x[0].shape[axis] // a["outputs"]
    return x[0].split(sizes, dim=axis)


def _clip(_: Any, x: list[Any], __: dict[str, Any]) -> Any:
    return x[0].clamp(*[None if bound is None else float(bound) for bound in [*x[1:], None, None][:2]])


def _reduce(name: str) -> Translate:
    def run(torch: Any, x: list[Any], a: dict[str, Any]) -> Any:
        axes = x[1].tolist() if len(x) > 1 else a.get("axes", list(range(x[0].dim())))
        return getattr(torch, name)(x[0], dim=axes, keepdim=bool(a.get("keepdims", 1)))

    return run


def _method(name: str) -> Translate:
    return lambda torch, x, a: getattr(torch, name)(*x)


OPERATORS: dict[str, Translate] = {
    **{op: _method(name) for op, name in {
        "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow", "MatMul": "matmul", "Where": "where",
        "Neg": "neg", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Abs": "abs", "Erf": "erf", "Tanh": "tanh",
        "Sigmoid": "sigmoid", "Equal": "eq", "Greater": "gt", "Less": "lt",
        "GreaterOrEqual": "ge", "LessOrEqual": "le", "And": "logical_and", "Or": "logical_or", "Not": "logical_not",
        "IsNaN": "isnan", "Relu": "relu", "Reciprocal": "reciprocal", "Max": "maximum", "Min": "minimum",
    }.items()},
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "ConstantOfShape": _constant_of_shape,
    "Softplus": lambda torch, x, a: torch.nn.functional.softplus(x[0]),
    "Elu": lambda torch, x, a: torch.nn.functional.elu(x[0], a.get("alpha", 1.0)),
    "Einsum": lambda torch, x, a: torch.einsum(a["equation"], *x),
    "Trilu": lambda torch, x, a: (torch.triu if a.get("upper", 1) else torch.tril)(
        x[0], int(x[1]) if len(x) > 1 else 0
    ),
    "Range": lambda torch, x, a: torch.arange(*(t.item() for t in x)),
    "Tile": lambda torch, x, a: x[0].tile(x[1].tolist()),
    "MaxPool": _pool("max"),
    "AveragePool": _pool("avg"),
    "GlobalAveragePool": lambda torch, x, a: x[0].mean(dim=list(range(2, x[0].dim())), keepdim=True),
    "Gemm": _gemm,
    "GRU": _recurrent("GRU"),
    "LSTM": _recurrent("LSTM"),
    "LayerNormalization": _norm,
    "BatchNormalization": lambda torch, x, a: torch.nn.functional.batch_norm(
        x[0], x[3], x[4], x[1], x[2], False, 0.0, a.get("epsilon", 1e-5)
    ),
    "InstanceNormalization": lambda torch, x, a: torch.nn.functional.instance_norm(
        x[0], weight=x[1], bias=x[2], eps=a.get("epsilon", 1e-5)
    ),
    "Softmax": lambda torch, x, a: torch.softmax(x[0], dim=a.get("axis", -1)),
    "LogSoftmax": lambda torch, x, a: torch.log_softmax(x[0], dim=a.get("axis", -1)),
    "LeakyRelu": lambda torch, x, a: torch.nn.functional.leaky_relu(x[0], a.get("alpha", 0.01)),
    "Gelu": lambda torch, x, a: torch.nn.functional.gelu(x[0], approximate=a.get("approximate", "none")),
    "HardSwish": lambda torch, x, a: torch.nn.functional.hardswish(x[0]),
    "HardSigmoid": lambda torch, x, a: (x[0] * a.get("alpha", 0.2) + a.get("beta", 0.5)).clamp(0, 1),
    "Clip": _clip,
    "Flatten": lambda torch, x, a: x[0].flatten(1) if a.get("axis", 1) == 1 else x[0].reshape(
        int(np.prod(x[0].shape[: a["axis"]])), -1
    ),
    "Reshape": _reshape,
    "Transpose": lambda torch, x, a: x[0].permute(a.get("perm", list(range(x[0].dim()))[::-1])),
    "Squeeze": lambda torch, x, a: x[0].squeeze(x[1].tolist() if len(x) > 1 else None),
    "Unsqueeze": lambda torch, x, a: _unsqueeze(x[0], x[1].tolist()),
    "TopK": lambda torch, x, a: torch.topk(x[0], int(x[1]), a.get("axis", -1), bool(a.get("largest", 1))),
    "Concat": lambda torch, x, a: torch.cat([torch.atleast_1d(t) for t in x], dim=a["axis"]),
    "Split": _split,
    "Slice": _slice,
    "Gather": lambda torch, x, a: _gather(x[0], x[1], a.get("axis", 0)),
    "Pad": lambda torch, x, a: torch.nn.functional.pad(x[0], _torch_pads(x[1].tolist())),
    "Expand": lambda torch, x, a: x[0] * torch.ones(x[1].tolist(), dtype=x[0].dtype),
    "Identity": lambda torch, x, a: x[0],
    "Dropout": lambda torch, x, a: x[0],
    "Cast": lambda torch, x, a: x[0].to(_torch_type(torch, a["to"])),
    "Constant": lambda torch, x, a: torch.tensor(numpy_helper.to_array(a["value"])),
    "Shape": lambda torch, x, a: torch.tensor(x[0].shape[a.get("start", 0) : a.get("end")]),
    "ReduceMean": _reduce("mean"),
    "ReduceSum": _reduce("sum"),
    "ReduceMax": _reduce("amax"),
}  # fmt: skip


def _unsqueeze(x: Any, axes: list[int]) -> Any:
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _gather(x: Any, index: Any, axis: int) -> Any:
    axis %= x.dim()
    picked = x.index_select(axis, (index % x.shape[axis]).reshape(-1))
    return picked.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


def _torch_type(torch: Any, element: int) -> Any:
    return getattr(torch, np.dtype(helper.tensor_dtype_to_np_dtype(element)).name)


def torch_output(
    model: onnx.ModelProto, x: Array, parameters: Mapping[str, Array]
) -> tuple[Any, dict[str, Any]]:
    """The model's first output as a torch tensor, and its parameters as leaves that gather gradients."""
    import torch

    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in parameters.items()}
    values: dict[str, Any] = {
        t.name: leaves[t.name] if t.name in leaves else torch.tensor(numpy_helper.to_array(t).copy())
        for t in model.graph.initializer
    }
    names = {t.name for t in model.graph.initializer}
    values[next(v.name for v in model.graph.input if v.name not in names)] = torch.tensor(x)
    for node in model.graph.node:
        if node.op_type not in OPERATORS:
            raise AutodiffError(
                f"operator {node.op_type} (node {node.name!r}) is not translated for the check"
            )
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
        attributes["outputs"] = len(node.output)
        result = OPERATORS[node.op_type](torch, [values.get(name) for name in node.input], attributes)
        results = result if isinstance(result, list | tuple) else (result,)
        values.update(zip(node.output, results, strict=False))
    return values[model.graph.output[0].name], leaves


def torch_loss(loss: str, output: Any, labels: Array) -> Any:
    """The mean loss, by PyTorch's own functions."""
    import torch
    from torch.nn import functional

    target = torch.tensor(labels)
    if loss == "softmax_cross_entropy":
        return functional.cross_entropy(output, target)
    if loss == "next_token":
        return functional.cross_entropy(output.flatten(0, 1), target.flatten())
    if loss == "mean_squared_error":
        return functional.mse_loss(output, target)
    if loss == "binary_cross_entropy":
        return functional.binary_cross_entropy_with_logits(output, target)
    raise AutodiffError(f"loss {loss!r} has no counterpart for the check")
