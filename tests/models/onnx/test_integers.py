"""Quantized operators: older versions against onnxruntime, axes and blocks, saturation, 8-bit floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.models.onnx.against_runtime import agrees, interpreted
from tests.models.onnx.backend import compare

X = np.array([[-300.0, -1.5, -0.5, 0.5], [1.5, 2.5, 100.0, 500.0], [0.1, 0.2, 0.3, -0.4]], np.float32)
Q = np.array([[0, 1, 2, 200], [255, 128, 127, 3], [9, 8, 7, 6]], np.uint8)
S = Q.astype(np.int8)
W = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3) * 7
IMAGE = (np.arange(2 * 5 * 6, dtype=np.uint8) * 37).reshape(1, 2, 5, 6)
SCALES, ZEROS = np.array([0.5, 1.0, 2.0], np.float32), np.array([1, 2, 3], np.uint8)
ONE, TWO = np.float32(1), np.float32(0.02)


@pytest.mark.parametrize(
    ("operator", "version", "inputs", "attributes"),
    [
        ("QuantizeLinear", 10, [X, ONE], {}),
        ("QuantizeLinear", 10, [X, ONE, np.int8(3)], {}),
        ("QuantizeLinear", 13, [X, SCALES, ZEROS], {"axis": 0}),
        ("QuantizeLinear", 13, [X.T.copy(), SCALES, ZEROS], {"axis": -1}),
        ("QuantizeLinear", 13, [np.zeros((0, 2), np.float32), ONE], {}),
        ("QuantizeLinear", 21, [X, SCALES, ZEROS.astype(np.uint16)], {"axis": 0}),
        ("QuantizeLinear", 21, [X, np.full((3, 2), 0.5, np.float32)], {"axis": 1, "block_size": 2}),
        ("DequantizeLinear", 10, [Q, TWO, np.uint8(128)], {}),
        ("DequantizeLinear", 10, [X.astype(np.int32), TWO], {}),
        ("DequantizeLinear", 13, [Q, SCALES, ZEROS], {"axis": -2}),
        ("DequantizeLinear", 19, [S, SCALES.astype(np.float16)], {"axis": 0, "tolerance": 1e-3}),
        ("DequantizeLinear", 21, [Q[:, :3], np.array([[0.5, 1.0]] * 3, np.float32)], {"block_size": 2}),
        ("MatMulInteger", 10, [Q, S.T.copy()], {}),
        ("MatMulInteger", 10, [Q, Q.T.copy(), np.uint8(100), ZEROS], {}),
        ("ConvInteger", 10, [IMAGE, W, np.uint8(100)], {"pads": [1, 0, 2, 1]}),
        ("ConvInteger", 10, [IMAGE, W, np.uint8(100)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ("ConvInteger", 10, [IMAGE, W[:, :1], None, np.uint8(9)], {"group": 2, "dilations": [2, 1]}),
        ("QLinearMatMul", 10, [Q, TWO, np.uint8(9), Q.T.copy(), ONE, np.uint8(3), np.float32(9), np.uint8(5)], {}),
        ("QLinearMatMul", 10, [Q, TWO, np.uint8(9), S.T.copy(), SCALES, S[0, :3], np.float32(9), np.uint8(5)], {}),
    ],
)
def test_as_onnxruntime(operator: str, version: int, inputs: list[Any], attributes: dict[str, Any]) -> None:
    agrees(operator, version, inputs, **attributes)


@pytest.mark.parametrize("bias", [None, np.array([1000, -2000], np.int32)])
@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
def test_quantized_convolution(auto_pad: str, bias: np.ndarray | None) -> None:
    scales, zeros = np.array([0.01, 0.02], np.float32), np.zeros(2, np.int8)
    weights = ((W.astype(np.int16) - 128) // 2).astype(np.int8)  # of 7 bits: onnxruntime's sums saturate on some processors
    inputs = [IMAGE, TWO, np.uint8(100), weights, scales, zeros, np.float32(0.3), np.uint8(128), bias]
    agrees("QLinearConv", 10, inputs, auto_pad=auto_pad, strides=[2, 1])


@pytest.mark.parametrize("x", [X, np.abs(X), -np.abs(X), np.zeros((2, 3), np.float32)])
def test_dynamic_quantization(x: np.ndarray) -> None:
    agrees("DynamicQuantizeLinear", 11, [x], outputs=3)


def test_products_are_exact_where_float32_is_not() -> None:
    a, b = torch.full((1, 70_001), 255, dtype=torch.uint8), torch.full((70_001, 1), 3, dtype=torch.uint8)
    assert interpreted("MatMulInteger", 10, [a, b])[0].tolist() == [[70_001 * 765]]


def test_eight_bit_floats_saturate_or_not() -> None:
    x, zero = torch.tensor([1e6, -1e6, 465.0, 449.0, 1.0]), torch.zeros(()).to(torch.float8_e4m3fn)
    for saturate, wanted in ((1, [448.0, -448.0, 448.0, 448.0, 1.0]), (0, [np.nan, np.nan, np.nan, 448.0, 1.0])):
        (y,) = interpreted("QuantizeLinear", 19, [x, torch.ones(()), zero], saturate=saturate)
        assert y.dtype == torch.float8_e4m3fn
        np.testing.assert_array_equal(y.float().numpy(), wanted)
        (back,) = interpreted("DequantizeLinear", 19, [y, torch.tensor(2.0)])
        np.testing.assert_array_equal(back.numpy(), 2 * np.array(wanted))


def test_the_output_type_is_the_attributes() -> None:
    (y,) = interpreted("QuantizeLinear", 21, [torch.tensor([-7.4, 40_000.0]), torch.ones(())], output_dtype=5)
    assert y.dtype == torch.int16 and y.tolist() == [-7, 32767]
    (back,) = interpreted("DequantizeLinear", 23, [y, torch.ones(())], output_dtype=10)
    assert back.dtype == torch.float16


def test_the_scale_gets_gradients() -> None:
    scale = torch.ones((), requires_grad=True)
    (y,) = interpreted("DequantizeLinear", 13, [torch.tensor([1, 5], dtype=torch.int8), scale])
    y.sum().backward()
    assert scale.grad is not None
    compare(scale.grad, np.float32(6), 0, 0)
