"""Matrix products: older versions against onnxruntime, integers, shapes without elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.models.onnx.against_runtime import agrees, interpreted
from tests.models.onnx.backend import compare

A = np.arange(6, dtype=np.float32).reshape(2, 3) - 2
B = np.arange(12, dtype=np.float32).reshape(3, 4) / 4 - 1
C = np.array([[1.0], [2.0]], np.float32)


@pytest.mark.parametrize(
    ("operator", "version", "inputs", "attributes"),
    [
        ("Gemm", 7, [A, B, C], {}),
        ("Gemm", 7, [A.T.copy(), B.T.copy(), C], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
        ("Gemm", 9, [A, B, np.float32(3)], {"beta": 0.5}),
        ("Gemm", 11, [A, B], {"alpha": -1.0}),
        ("Gemm", 13, [A[:, :0], B[:0], C], {"beta": 0.5}),
        ("Gemm", 13, [A.astype(np.float64), B.astype(np.float64), C.astype(np.float64)], {}),
        ("MatMul", 7, [A, B], {}),
        ("MatMul", 9, [A.astype(np.int32), B.astype(np.int32)], {}),
        ("MatMul", 13, [np.ones((2, 1, 2, 3), np.float32), np.ones((5, 3, 1), np.float32)], {}),
        ("MatMul", 13, [A[0], B], {}),
        ("MatMul", 13, [A, B[:, 0]], {}),
        ("MatMul", 13, [A[0], B[:, 0]], {}),
        ("MatMul", 13, [A[:, :0], B[:0]], {}),
        ("Einsum", 12, [A, B], {"equation": "ij, jk -> ki"}),
        ("Einsum", 12, [A, B], {"equation": "ij,jk"}),
        ("Einsum", 12, [np.ones((2, 3, 3), np.float32)], {"equation": "...ii->...i"}),
        ("Einsum", 12, [A.astype(np.int64), B.astype(np.int64)], {"equation": "ij,jk->i"}),
    ],
)
def test_as_onnxruntime(operator: str, version: int, inputs: list[Any], attributes: dict[str, Any]) -> None:
    agrees(operator, version, inputs, **attributes)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "uint64"])
def test_integers_that_torch_has_no_products_for(dtype: str) -> None:
    a, b, c = np.array([[1, 2], [3, 4]], dtype), np.array([[5, 6], [7, 8]], dtype), np.array([9, 10], dtype)
    tensors = [torch.from_numpy(array) for array in (a, b, c)]
    compare(interpreted("MatMul", 13, tensors[:2])[0], a @ b, 0, 0)
    compare(interpreted("Gemm", 13, tensors)[0], a @ b + c, 0, 0)
    compare(interpreted("Gemm", 13, tensors, alpha=2.0, beta=3.0)[0], 2 * (a @ b) + 3 * c, 0, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("operator", "attributes"), [("MatMul", {}), ("Gemm", {}), ("Einsum", {"equation": "ij,jk->ik"})])
def test_half_floats(operator: str, attributes: dict[str, Any], dtype: torch.dtype) -> None:
    (found,) = interpreted(operator, 13, [torch.from_numpy(A).to(dtype), torch.from_numpy(B).to(dtype)], **attributes)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), torch.from_numpy(A @ B), rtol=0.01, atol=0.01)


@pytest.mark.parametrize(("operator", "attributes"), [("MatMul", {}), ("Gemm", {}), ("Einsum", {"equation": "ij,jk->ik"})])
def test_gradients_flow(operator: str, attributes: dict[str, Any]) -> None:
    a, b = torch.from_numpy(A).requires_grad_(), torch.from_numpy(B).requires_grad_()
    interpreted(operator, 13, [a, b], **attributes)[0].sum().backward()
    assert a.grad is not None and b.grad is not None
    torch.testing.assert_close(a.grad, b.detach().sum(1).expand(2, 3))
