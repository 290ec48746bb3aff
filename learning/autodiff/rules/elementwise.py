"""Functions of single elements, with broadcasting."""

from __future__ import annotations

import math

import numpy as np

from learning.autodiff.graph import Tensor
from learning.autodiff.registry import Gradients, Node, composite, rule


def _bool_mask(n: Node, condition: Tensor) -> Tensor:
    """dy where the condition holds, zero elsewhere. A product: onnxruntime's Where takes five times as
    long.
    """
    return n.dy * n.graph.cast(condition, n.y.dtype or np.float32)


# --- two operands, broadcast against each other -------------------------------------------------------------


@rule("Add")
def add(n: Node) -> Gradients:
    return [n.unbroadcast(n.dy, i) if n.wants(i) else None for i in (0, 1)]


@rule("Sub")
def sub(n: Node) -> Gradients:
    return [
        n.unbroadcast(n.dy, 0) if n.wants(0) else None,
        n.unbroadcast(-n.dy, 1) if n.wants(1) else None,
    ]


@rule("Mul")
def mul(n: Node) -> Gradients:
    return [n.unbroadcast(n.dy * n.input(1 - i), i) if n.wants(i) else None for i in (0, 1)]


@rule("Div")
def div(n: Node) -> Gradients:
    a_grad = n.dy / n.input(1)
    return [
        n.unbroadcast(a_grad, 0) if n.wants(0) else None,
        n.unbroadcast(-(a_grad * n.y), 1) if n.wants(1) else None,
    ]


@rule("Pow", notes="gradient of the exponent only for positive bases")
def power(n: Node) -> Gradients:
    base, exponent = n.input(0), n.input(1)
    known = exponent.value
    if known is not None and known.size == 1 and float(known.reshape(-1)[0]) == 2.0:
        return [n.unbroadcast(n.dy * base * 2.0, 0) if n.wants(0) else None, None]
    lowered = n.graph.op("Sub", exponent, n.graph.constant(np.asarray(1, exponent.dtype)))
    return [
        n.unbroadcast(n.dy * exponent_like(n, exponent) * n.graph.op("Pow", base, lowered), 0)
        if n.wants(0)
        else None,
        n.unbroadcast(n.dy * n.y * n.graph.op("Log", base), 1) if n.wants(1) else None,
    ]


def exponent_like(n: Node, exponent: Tensor) -> Tensor:
    """The exponent in the base's type: Pow alone allows them to differ."""
    return exponent if exponent.dtype == n.x.dtype or n.x.dtype is None else n.graph.cast(exponent, n.x.dtype)


@rule("Min", "Max", notes="a tie goes to the first operand")
def extreme(n: Node) -> Gradients:
    """Only the operand that was chosen moves; among equal ones the first."""
    grads: list[Tensor | None] = []
    taken: Tensor | None = None
    for index in range(len(n.inputs)):
        chosen = n.graph.op("Equal", n.input(index), n.y)
        if taken is not None:
            chosen = n.graph.op("And", chosen, n.graph.op("Not", taken))
        grads.append(n.unbroadcast(_bool_mask(n, chosen), index) if n.wants(index) else None)
        taken = chosen if taken is None else n.graph.op("Or", taken, chosen)
    return grads


@rule("Where")
def where(n: Node) -> Gradients:
    condition = n.input(0)
    return [
        None,
        n.unbroadcast(n.graph.where(condition, n.dy, 0.0), 1) if n.wants(1) else None,
        n.unbroadcast(n.graph.where(condition, 0.0, n.dy), 2) if n.wants(2) else None,
    ]


@rule("Sum")
def sum_(n: Node) -> Gradients:
    return [n.unbroadcast(n.dy, i) if n.wants(i) else None for i in range(len(n.inputs))]


# --- one operand --------------------------------------------------------------------------------------------


@rule("Neg")
def neg(n: Node) -> Gradients:
    return -n.dy


@rule("Identity")
def identity(n: Node) -> Gradients:
    return n.dy


@rule("Cast", notes="between float types")
def cast(n: Node) -> Gradients:
    if n.x.dtype is None or n.x.dtype.kind != "f" or n.y.dtype is None or n.y.dtype.kind != "f":
        return None
    return n.graph.cast(n.dy, n.x.dtype)


@rule("Abs")
def absolute(n: Node) -> Gradients:
    return n.dy * n.graph.op("Sign", n.x)


@rule("Exp")
def exp(n: Node) -> Gradients:
    return n.dy * n.y


@rule("Log")
def log(n: Node) -> Gradients:
    return n.dy / n.x


@rule("Sqrt")
def sqrt(n: Node) -> Gradients:
    return n.dy * 0.5 / n.y


@rule("Reciprocal")
def reciprocal(n: Node) -> Gradients:
    return -(n.dy * n.y * n.y)


@rule("Sin")
def sin(n: Node) -> Gradients:
    return n.dy * n.graph.op("Cos", n.x)


@rule("Cos")
def cos(n: Node) -> Gradients:
    return -(n.dy * n.graph.op("Sin", n.x))


def _gaussian(x: Tensor, scale: float) -> Tensor:
    """exp(−scale·x²)"""
    return x.graph.op("Exp", x * x * -scale)


@rule("Erf")
def erf(n: Node) -> Gradients:
    # 2/√π·exp(−x²) with the factor inside the exponent: one pass over the tensor less.
    return n.dy * n.graph.op("Exp", math.log(2.0 / math.sqrt(math.pi)) - n.x * n.x)


# --- activations --------------------------------------------------------------------------------------------


@rule("Relu")
def relu(n: Node) -> Gradients:
    return _bool_mask(n, n.graph.op("Greater", n.y, n.graph.constant(np.asarray(0, n.y.dtype))))


@rule("LeakyRelu")
def leaky_relu(n: Node) -> Gradients:
    positive = n.graph.op("Greater", n.x, n.graph.constant(np.asarray(0, n.x.dtype)))
    return n.graph.where(positive, n.dy, n.dy * float(n.attr("alpha", 0.01)))


@rule("PRelu")
def prelu(n: Node) -> Gradients:
    positive = n.graph.op("Greater", n.x, n.graph.constant(np.asarray(0, n.x.dtype)))
    return [
        n.graph.where(positive, n.dy, n.dy * n.input(1)) if n.wants(0) else None,
        n.unbroadcast(n.graph.where(positive, 0.0, n.dy * n.x), 1) if n.wants(1) else None,
    ]


@rule("Sigmoid")
def sigmoid(n: Node) -> Gradients:
    return n.dy * n.y * (1.0 - n.y)


@rule("Tanh")
def tanh(n: Node) -> Gradients:
    return n.dy * (1.0 - n.y * n.y)


@rule("Softplus")
def softplus(n: Node) -> Gradients:
    return n.dy * n.graph.op("Sigmoid", n.x)


@rule("Elu")
def elu(n: Node) -> Gradients:
    positive = n.graph.op("Greater", n.x, n.graph.constant(np.asarray(0, n.x.dtype)))
    return n.graph.where(positive, n.dy, n.dy * (n.y + float(n.attr("alpha", 1.0))))


@rule("Gelu", notes="exact and tanh form")
def gelu(n: Node) -> Gradients:
    if n.attr("approximate", "none") == "tanh":
        return _gelu_tanh(n)
    cdf = (n.graph.op("Erf", n.x * math.sqrt(0.5)) + 1.0) * 0.5
    return n.dy * (cdf + n.x * _gaussian(n.x, 0.5) * (1.0 / math.sqrt(2.0 * math.pi)))


@composite("gelu")
def gelu_whole(n: Node, inner: list[str]) -> Gradients:
    """y = x·Φ; dx = dy·(Φ + x·φ), with φ = e^(−s²)/√(2π) and s = x·√½ from the forward pass."""
    s = Tensor(inner[0], n.graph, n.x.shape, n.x.dtype)
    density = n.graph.op("Exp", math.log(1.0 / math.sqrt(2.0 * math.pi)) - s * s)
    return [n.dy * (n.input(1) + n.x * density), None]


def _gelu_tanh(n: Node) -> Tensor:
    """y = x/2·(1 + tanh u), u = √(2/π)·(x + 0.044715·x³)"""
    c = math.sqrt(2.0 / math.pi)
    square = n.x * n.x
    t = n.graph.op("Tanh", n.x * (square * (0.044715 * c) + c))
    du = square * (3 * 0.044715 * c) + c
    return n.dy * 0.5 * (1.0 + t + n.x * (1.0 - t * t) * du)


@rule("HardSigmoid")
def hard_sigmoid(n: Node) -> Gradients:
    alpha = float(n.attr("alpha", 0.2))
    inside = _strictly_between(n, n.y, 0.0, 1.0)
    return n.graph.where(inside, n.dy * alpha, 0.0)


@rule("HardSwish")
def hard_swish(n: Node) -> Gradients:
    """x·clip(x/6 + 1/2, 0, 1): slope 0 below −3, 1 above 3, x/3 + 1/2 between."""
    zero, one = (n.graph.constant(np.asarray(v, n.x.dtype)) for v in (0.0, 1.0))
    middle = _strictly_between(n, n.x, -3.0, 3.0)
    gate = n.graph.op("Clip", n.x * (1.0 / 6.0) + 0.5, zero, one)
    return n.dy * n.graph.where(middle, n.x * (1.0 / 3.0) + 0.5, gate)


def _strictly_between(n: Node, x: Tensor, low: float, high: float) -> Tensor:
    lower, upper = (n.graph.constant(np.asarray(v, x.dtype)) for v in (low, high))
    return n.graph.op("And", n.graph.op("Greater", x, lower), n.graph.op("Less", x, upper))


@rule("Clip", notes="constant bounds; at a bound the gradient passes, as in PyTorch")
def clip(n: Node) -> Gradients:
    inside: Tensor | None = None
    for index, compare in ((1, "GreaterOrEqual"), (2, "LessOrEqual")):
        if n.has(index):
            test = n.graph.op(compare, n.x, n.input(index))
            inside = test if inside is None else n.graph.op("And", inside, test)
    return n.dy if inside is None else _bool_mask(n, inside)


# --- normalised exponentials --------------------------------------------------------------------------------


@rule("Softmax")
def softmax(n: Node) -> Gradients:
    """y·(dy − Σ dy·y). In attention, o = y·v, the sum is Σ do·o: of rows as long as a head is wide, not as the text
    is (FlashAttention's trick, Dao et al. 2022, arXiv:2205.14135, appendix B.2).
    """
    axis = int(n.attr("axis", -1))
    if n.mixed is not None and axis % n.y.rank == n.y.rank - 1:
        o, gradient = n.mixed
        return n.y * (n.dy - n.graph.sum(gradient * o, [-1], keep=True))
    weighted = n.dy * n.y
    return weighted - n.y * n.graph.sum(weighted, [axis], keep=True)


@rule("LogSoftmax")
def log_softmax(n: Node) -> Gradients:
    return n.dy - n.graph.op("Exp", n.y) * n.graph.sum(n.dy, [int(n.attr("axis", -1))], keep=True)


@rule("Dropout", notes="in evaluation mode the identity; masks by `--dropout` (learning/autodiff/rewrite.py)")
def dropout(n: Node) -> Gradients:
    return n.dy
