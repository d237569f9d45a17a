"""Matrix products and Einstein sums."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dyncompress.models.onnx.node import Functions, Node
from dyncompress.models.onnx.operators.widening import wide


def _product(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """A product of tensors of one dtype; of integers on the CPU, as torch has no such product on a GPU."""
    first = inputs[0]
    if first.is_floating_point():
        return function(*inputs)
    return function(*(wide(x).cpu() for x in inputs)).to(first.device, first.dtype)


def matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """The matrix product, with numpy's rules for more axes, and for one."""
    return _product(torch.matmul, a, b)


def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """`alpha * a @ b + beta * c`, with `a` and `b` transposed if the attributes say so."""
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    a, b = a.T if node.get("transA", 0) else a, b.T if node.get("transB", 0) else b
    if c is not None and a.is_floating_point():
        return torch.addmm(c, a, b, beta=beta, alpha=alpha)
    result = _product(torch.matmul, a, b)
    result = result if alpha == 1 else (alpha * wide(result)).to(result.dtype)
    if c is None:
        return result
    return (wide(result) + (wide(c) if beta == 1 else beta * wide(c))).to(result.dtype)


def einsum(node: Node, *inputs: Tensor) -> Tensor:
    """Einstein's sum of an equation like `ij,jk->ik`."""
    return _product(lambda *inputs: torch.einsum(node.attributes["equation"], *inputs), *inputs)


FUNCTIONS: Functions = {
    "MatMul": {1: matmul},
    "Gemm": {7: gemm},
    "Einsum": {12: einsum},
}
