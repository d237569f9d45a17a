"""Activations: older versions against onnxruntime, half floats, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.models.onnx.against_runtime import agrees, interpreted
from tests.models.onnx.backend import compare

X = np.array([[[-3.0, -0.5, 0.0, 0.25], [0.7, 1.0, 1.0, 45.0]], [[0.1, 0.2, 0.2, -1.0], [2.0, -2.0, 4.0, 4.0]]], np.float32)
ALL = [
    *["Celu", "Elu", "Gelu", "HardSigmoid", "HardSwish", "Hardmax", "LeakyRelu", "LogSoftmax", "Softmax", "Mish", "Relu"],
    *["Selu", "Shrink", "Sigmoid", "Softplus", "Softsign", "Swish", "ThresholdedRelu"],
]


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize(
    ("version", "axis"), [(7, 0), (7, 1), (7, 2), (11, -1), (11, -3), (11, None), (13, 0), (13, 1), (13, -2), (13, None)]
)
def test_normalized_along_axes(operator: str, version: int, axis: int | None) -> None:
    agrees(operator, version, [X], **({} if axis is None else {"axis": axis}))


@pytest.mark.parametrize(
    ("operator", "version", "inputs", "attributes"),
    [
        ("Softmax", 7, [np.zeros((0, 3), np.float32)], {}),
        ("Hardmax", 13, [np.zeros((0, 3), np.float32)], {}),
        ("Softmax", 13, [X.astype(np.float16)], {"axis": 1, "tolerance": 1e-3}),
        ("PRelu", 7, [X, np.array([[0.5], [2.0]], np.float32)], {}),
        ("PRelu", 9, [X.astype(np.float16), np.array(0.5, np.float16)], {}),
        ("LeakyRelu", 6, [X], {"alpha": 0.3}),
        ("Elu", 6, [X], {"alpha": 0.3}),
        ("Celu", 12, [X], {"alpha": 0.3}),
        ("Selu", 6, [X], {"gamma": 2.0}),
        ("Selu", 6, [X], {}),
        ("Shrink", 9, [X], {"lambd": 0.3, "bias": 0.2}),
        ("Shrink", 9, [np.array([-3, 0, 1, 5], np.int32)], {"lambd": 2.0, "bias": 1.5}),
        ("HardSigmoid", 6, [X], {"alpha": 0.5, "beta": 0.3}),
        ("HardSwish", 14, [X], {}),
        ("Mish", 18, [X], {}),
        ("Softplus", 7, [X], {}),
        ("Softsign", 7, [X], {}),
        ("ThresholdedRelu", 10, [X], {"alpha": 0.7}),
        ("Relu", 14, [np.array([-3, 0, 3], np.int8)], {}),
        ("Gelu", 20, [X], {"approximate": "tanh"}),
    ],
)
def test_as_onnxruntime(operator: str, version: int, inputs: list[Any], attributes: dict[str, Any]) -> None:
    agrees(operator, version, inputs, **attributes)


def test_integers_through_prelu() -> None:
    x, slope = torch.tensor([-3, 3], dtype=torch.int32), torch.tensor(2, dtype=torch.int32)
    assert interpreted("PRelu", 16, [x, slope])[0].tolist() == [-6, 3]
    unsigned = x.abs().to(torch.uint32)
    assert interpreted("PRelu", 16, [unsigned, slope.to(torch.uint32)])[0].tolist() == [3, 3]


def test_softplus_is_exact_in_float64() -> None:
    x = np.array([-30.0, 1.0, 19.0, 25.0, 39.0, 50.0])
    compare(interpreted("Softplus", 7, [torch.from_numpy(x)])[0], np.logaddexp(x, 0), 1e-15, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("operator", ALL)
def test_half_floats(operator: str, dtype: torch.dtype) -> None:
    x = torch.from_numpy(X).to(dtype)
    (found,) = interpreted(operator, 28, [x])
    (wanted,) = interpreted(operator, 28, [x.float()])
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted, rtol=0.01, atol=0.02)


@pytest.mark.parametrize("operator", [name for name in ALL if name != "Hardmax"])
def test_gradients_flow_also_far_from_zero(operator: str) -> None:
    x = torch.tensor([[-200.0, -1.0, 1.5, 200.0], [-1.0, 0.2, 0.7, 0.3]], requires_grad=True)
    (y,) = interpreted(operator, 28, [x])
    (y * torch.arange(4)).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.abs().sum() > 0
