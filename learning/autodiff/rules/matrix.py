"""Matrix products."""

from __future__ import annotations

import string

from learning.autodiff.errors import AutodiffError
from learning.autodiff.graph import Tensor
from learning.autodiff.registry import Gradients, Node, Product, rule


@rule("Gemm")
def gemm(n: Node) -> Gradients:
    """y = α·A'·B' + β·C, where ' is an optional transposition."""
    alpha, beta = float(n.attr("alpha", 1.0)), float(n.attr("beta", 1.0))
    ta, tb = int(n.attr("transA", 0)), int(n.attr("transB", 0))
    a, b = n.input(0), n.input(1)

    def product(left: Tensor, right: Tensor, t_left: int, t_right: int) -> Tensor:
        return n.graph.op("Gemm", left, right, alpha=alpha, transA=t_left, transB=t_right)

    da: Tensor | None = None
    db: Tensor | Product | None = None
    dc: Tensor | None = None
    if n.wants(0):
        da = product(b, n.dy, tb, 1) if ta else product(n.dy, b, 0, 1 - tb)
    if n.wants(1):
        if tb and not ta and alpha == 1.0:
            db = Product(n.dy, a)
        else:
            db = product(n.dy, a, 1, ta) if tb else product(a, n.dy, 1 - ta, 0)
    if n.wants(2):
        scaled = n.dy if beta == 1.0 else n.dy * beta
        dc = n.unbroadcast(scaled, 2)
    return [da, db, dc]


@rule("MatMul", notes="any rank, with broadcasting")
def matmul(n: Node) -> Gradients:
    a, b = n.input(0), n.input(1)
    if a.rank == 1 or b.rank == 1:
        return _matmul_vector(n)
    if b.rank == 2:
        return _matmul_shared(n)
    batch = n.y.dims[:-2]
    da = db = None
    if n.wants(0):
        da = n.graph.op("MatMul", n.dy, n.graph.swap_last(b, b.rank))
        da = n.graph.unbroadcast(da, (*batch, *a.dims[-2:]), a.dims)
    if n.wants(1):
        db = n.graph.op("MatMul", n.graph.swap_last(a, a.rank), n.dy)
        db = n.graph.unbroadcast(db, (*batch, *b.dims[-2:]), b.dims)
    return [da, db]


def _matmul_shared(n: Node) -> Gradients:
    """One matrix for a whole batch: both gradients are single products over the rows of all samples."""
    a, b = n.input(0), n.input(1)
    rows, inner, columns = -1, a.dims[-1], b.dims[1]
    dy = n.dy if n.y.rank == 2 else n.graph.reshape(n.dy, (rows, columns))
    da = db = None
    if n.wants(0):
        da = n.graph.op("Gemm", dy, b, transB=1)
        da = da if a.rank == 2 else n.graph.reshape(da, a.dims)
    if n.wants(1):
        flat = a if a.rank == 2 else n.graph.reshape(a, (rows, inner))
        db = tall_product(flat, dy, inner, columns)
    return [da, db]


def tall_product(a: Tensor, b: Tensor, a_width: int, b_width: int) -> Tensor:
    """aᵀ·b of two matrices with many rows. The narrower one is best transposed: its packing is the slow part.

    The third axis keeps onnxruntime from fusing the transposition back into the product.
    """
    g = a.graph
    if a_width <= b_width:
        return g.op("Gemm", a, b, transA=1)
    turned = g.reshape(g.op("Gemm", b, a, transA=1), [b_width, a_width, 1])
    return g.reshape(g.transpose(turned, [1, 0, 2]), [a_width, b_width])


def _matmul_vector(n: Node) -> Gradients:
    """A vector operand is a matrix with one row (left) or one column (right)."""
    a, b = n.input(0), n.input(1)
    a_dims = a.dims if a.rank > 1 else (1, *a.dims)
    b_dims = b.dims if b.rank > 1 else (*b.dims, 1)
    lead = a_dims[:-2] if len(a_dims) >= len(b_dims) else b_dims[:-2]
    y_dims = (*lead, a_dims[-2], b_dims[-1])
    dy = n.graph.reshape(n.dy, y_dims)
    wide_a, wide_b = n.graph.reshape(a, a_dims), n.graph.reshape(b, b_dims)
    da = n.graph.op("MatMul", dy, n.graph.swap_last(wide_b, len(b_dims)))
    db = n.graph.op("MatMul", n.graph.swap_last(wide_a, len(a_dims)), dy)
    da = n.graph.unbroadcast(da, (*lead, *a_dims[-2:]), a_dims)
    db = n.graph.unbroadcast(db, (*lead, *b_dims[-2:]), b_dims)
    return [n.graph.reshape(da, a.dims), n.graph.reshape(db, b.dims)]


def _terms(equation: str) -> tuple[list[str], str]:
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        letters = "".join(terms).replace(".", "")
        right = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    return terms, right


def _spelled_out(n: Node, terms: list[str], result: str) -> tuple[list[str], str]:
    """`...` as letters nobody uses yet, counted from the right as numpy does."""
    if "..." not in "".join(terms) + result:
        return terms, result
    free = [c for c in string.ascii_letters if c not in "".join(terms) + result]
    widths = [n.input(i).rank - len(term.replace("...", "")) for i, term in enumerate(terms) if "..." in term]
    dots = free[: max(widths)]
    spelled = []
    for index, term in enumerate(terms):
        width = n.input(index).rank - len(term.replace("...", ""))
        spelled.append(term.replace("...", "".join(dots[len(dots) - width :])))
    if "..." not in result and "->" not in str(n.attr("equation")):
        result = "..." + result
    return spelled, result.replace("...", "".join(dots))


@rule("Einsum", notes="any product, `...` included; no index twice in one operand")
def einsum(n: Node) -> Gradients:
    """The gradient of an operand is the einsum of dy with the others, its missing indices broadcast."""
    terms, result = _spelled_out(n, *_terms(str(n.attr("equation"))))
    if any(len(set(term)) != len(term) for term in [*terms, result]):
        raise AutodiffError(
            f"Einsum (node {n.proto.name!r}) {n.attr('equation')!r}: an index twice in one operand (a diagonal) has "
            "no gradient rule"
        )
    sizes: dict[str, set[int]] = {}
    for index, term in enumerate(terms):
        for letter, size in zip(term, n.input(index).dims, strict=True):
            sizes.setdefault(letter, set()).add(size)
    if any(len(found) > 1 for found in sizes.values()):
        raise AutodiffError(
            f"Einsum (node {n.proto.name!r}) {n.attr('equation')!r} broadcasts an axis of size 1: expand it first"
        )
    grads: list[Tensor | None] = []
    for index, term in enumerate(terms):
        if not n.wants(index):
            grads.append(None)
            continue
        others = [(t, n.input(i)) for i, t in enumerate(terms) if i != index]
        operands = [(result, n.dy), *others]
        known = "".join(c for c in term if any(c in letters for letters, _ in operands))
        made = n.graph.op(
            "Einsum", *[t for _, t in operands], equation=f"{','.join(x for x, _ in operands)}->{known}"
        )
        if (
            known != term
        ):  # summed out in the forward pass without meeting anything: every element gets the same
            dims = dict(zip(term, n.input(index).dims, strict=True))
            made = n.graph.reshape(made, [dims[c] if c in known else 1 for c in term])
            made = n.graph.op("Expand", made, n.graph.ints([dims[c] for c in term]))
        grads.append(made)
    return grads
