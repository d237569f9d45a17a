"""Element-wise operators: older versions against onnxruntime, and dtypes for which it has no kernels against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.models.onnx.against_runtime import agrees, interpreted
from tests.models.onnx.backend import compare

MIXED = np.array([[-2.5, -0.5, 0.0], [0.5, 1.5, np.inf]], np.float32)
UNSIGNED = np.array([0, 1, 7, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)


@pytest.mark.parametrize(
    ("operator", "version", "inputs", "attributes"),
    [
        ("Clip", 6, [MIXED], {"min": -1.0, "max": 1.0}),
        ("Clip", 6, [MIXED], {}),
        ("Clip", 11, [MIXED, None, np.float32(1)], {}),
        ("Clip", 12, [np.arange(6), np.int64(4), np.int64(2)], {}),
        ("Clip", 13, [MIXED.astype(np.float16), np.float16(-1)], {}),
        ("Clip", 13, [MIXED], {}),
        ("Clip", 12, [np.arange(6), None, np.int64(2)], {}),
        ("Clip", 12, [np.arange(6)], {}),
        ("Clip", 13, [UNSIGNED, np.uint64(5), np.uint64(2**63 + 5)], {}),
        ("Max", 6, [MIXED, -MIXED, MIXED / 2], {}),
        ("Max", 12, [UNSIGNED, UNSIGNED[::-1].copy()], {}),
        ("Min", 8, [MIXED, MIXED[0] + 1], {}),
        ("Sum", 8, [MIXED, MIXED[0], MIXED[:, :1]], {}),
        ("Mean", 8, [MIXED, MIXED[0], MIXED[:, :1]], {}),
        ("Add", 7, [np.zeros((0, 3), np.float32), MIXED[0]], {}),
        ("Div", 14, [np.array([7, -7, 7, -7]), np.array([2, 2, -2, -2])], {}),
        ("Mod", 13, [np.array([7, -7, 7, -7], np.int32), np.array([3, 3, -3, -3], np.int32)], {"fmod": 0}),
        ("Mod", 13, [np.array([7, -7, 7, -7], np.int32), np.array([3, 3, -3, -3], np.int32)], {"fmod": 1}),
        ("Pow", 7, [np.abs(MIXED[0]), MIXED[1]], {}),
        ("Pow", 12, [np.array([1, -2, 3], np.int32), np.array([0.0, 3.0, 0.5], np.float32)], {}),
        ("Pow", 15, [np.array([1.0, -2.0, 3.0], np.float32), np.array([3, 3, -2])], {}),
        ("BitShift", 11, [np.array([1, 200], np.uint8), np.array([1, 3], np.uint8)], {"direction": "RIGHT"}),
        ("BitShift", 11, [np.array([1, 200], np.uint8), np.array([1, 3], np.uint8)], {"direction": "LEFT"}),
        ("BitShift", 11, [UNSIGNED, np.full(6, 3, np.uint64)], {"direction": "RIGHT"}),
        ("Equal", 7, [np.array([True, False]), np.array([True, True])], {}),
        ("Greater", 9, [np.arange(3), np.array([1])], {}),
        ("Less", 7, [MIXED, MIXED[:1]], {}),
        ("LessOrEqual", 16, [MIXED, MIXED[:1]], {}),
        ("IsInf", 10, [np.array([-np.inf, np.inf, 1], np.float32)], {"detect_negative": 0}),
        ("IsInf", 10, [np.array([-np.inf, np.inf, 1], np.float32)], {"detect_positive": 0}),
        ("Round", 11, [np.array([0.5, 1.5, 2.5, -0.5, -2.5], np.float16)], {}),
        ("Sign", 13, [np.array([-3, 0, 5], np.int8)], {}),
        ("Sign", 9, [np.array([-3, 0, np.nan], np.float32)], {}),
        ("Where", 9, [np.array([[True], [False]]), np.array(["a", "b"], object), np.array("c", object)], {}),
        ("Erf", 9, [MIXED], {"tolerance": 1e-5}),
    ],
)
def test_as_onnxruntime(operator: str, version: int, inputs: list[Any], attributes: dict[str, Any]) -> None:
    agrees(operator, version, inputs, **attributes)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
@pytest.mark.parametrize(
    ("operator", "function"),
    [
        ("Add", np.add),
        ("Sub", np.subtract),
        ("Mul", np.multiply),
        ("Div", np.floor_divide),
        ("Mod", np.remainder),
        ("Max", np.maximum),
        ("Less", np.less),
        ("GreaterOrEqual", np.greater_equal),
        ("Equal", np.equal),
        ("BitwiseXor", np.bitwise_xor),
    ],
)
def test_unsigned_integers_that_torch_has_few_functions_for(operator: str, function: Any, dtype: str) -> None:
    top = np.iinfo(dtype).max
    numbers = np.array([1, 2, 3, 10, top // 2, top // 2 + 1, top // 2 + 2, top - 1, top], dtype)
    a, b = numbers[:, None], numbers[None]
    (found,) = interpreted(operator, 18, [torch.from_numpy(a), torch.from_numpy(b)])
    compare(found, function(a, b), 0, 0)


def test_shifts_past_the_width_leave_the_sign() -> None:
    numbers, amounts = torch.tensor([-5, 5, -5, 5], dtype=torch.int8), torch.tensor([9, 8, -1, 1], dtype=torch.int8)
    (right,) = interpreted("BitShift", 28, [numbers, amounts], direction="RIGHT")
    (left,) = interpreted("BitShift", 28, [numbers, amounts], direction="LEFT")
    assert right.tolist() == [-1, 0, -1, 2]
    assert left.tolist() == [0, 0, 0, 10]


def test_the_remainder_of_zero_has_the_sign_of_the_divisor() -> None:
    (rest,) = interpreted("Mod", 28, [torch.tensor([0.0, 3.0, -1.0]), torch.tensor([-2.0, -3.0, torch.inf])])
    assert torch.signbit(rest).tolist() == [True, True, False]
    assert rest[2] == torch.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("operator", ["Acos", "Atanh", "Cosh", "Erf", "Reciprocal", "Tan", "Ceil", "Neg", "Sqrt"])
def test_half_floats(operator: str, dtype: torch.dtype) -> None:
    x = torch.tensor([0.125, 0.5, 0.75], dtype=dtype)
    (found,) = interpreted(operator, 22, [x])
    (wanted,) = interpreted(operator, 22, [x.float()])
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted, rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    ("operator", "count"),
    [("Exp", 1), ("Sqrt", 1), ("Abs", 1), ("Div", 2), ("Pow", 2), ("Max", 2), ("Mean", 3), ("Clip", 3), ("Mod", 2), ("Sum", 2)],
)
def test_gradients_flow(operator: str, count: int) -> None:
    inputs = [torch.full((2,) if operator != "Clip" else (), 0.5 + place, requires_grad=True) for place in range(count)]
    (y,) = interpreted(operator, 18, inputs, **({"fmod": 1} if operator == "Mod" else {}))
    y.sum().backward()
    gradient = inputs[0].grad
    assert gradient is not None and gradient.isfinite().all()
    assert operator in ("Max", "Clip") or gradient.abs().sum() > 0


def test_inputs_stay_as_they_are() -> None:
    x = torch.tensor([-1.0, 2.0])
    for operator in ("Abs", "Neg", "Sign", "Exp", "Ceil"):
        interpreted(operator, 13, [x])
    assert x.tolist() == [-1.0, 2.0]
