"""Constants, element types and shapes: older versions against onnxruntime, strings, 8-bit floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from tests.models.onnx.against_runtime import agrees, interpreted
from tests.models.onnx.backend import compare

X = np.array([[-1.5, 0.0, 0.4], [100.7, 7.0, -0.0]], np.float32)
NUMBERS = np.array([0.1, 1 / 3, 1e10, 1e-5, 123456789, np.nan, np.inf, -np.inf, -0.0, 1e7], np.float32)


@pytest.mark.parametrize(
    ("operator", "version", "inputs", "attributes"),
    [
        *[("Cast", version, [X], {"to": to}) for version in (7, 9, 13) for to in (6, 7, 9, 10, 11)],
        ("Cast", 13, [np.array([300, -1, 0], np.int16)], {"to": TensorProto.UINT8}),
        ("Cast", 13, [np.array([300, -1, 0], np.int16)], {"to": TensorProto.UINT64}),
        ("Cast", 13, [np.array([True, False])], {"to": TensorProto.FLOAT}),
        ("Cast", 13, [X.astype(np.float64) * 1e6], {"to": TensorProto.FLOAT16}),
        ("Cast", 9, [NUMBERS], {"to": TensorProto.STRING}),
        ("Cast", 9, [np.array([[3, -7]])], {"to": TensorProto.STRING}),
        ("Cast", 9, [np.array(["1.5", "1e5", "+INF", "nan", "-inf"], object)], {"to": TensorProto.FLOAT}),
        ("Cast", 9, [np.array([["12"], ["-5"]], object)], {"to": TensorProto.INT64}),
        ("Dropout", 7, [X], {"ratio": 0.9}),
        ("Dropout", 12, [X, np.float32(0.9)], {}),
        ("ConstantOfShape", 9, [np.array([2, 0, 3])], {}),
        ("ConstantOfShape", 9, [np.zeros(0, np.int64)], {"value": helper.make_tensor("value", TensorProto.INT32, [1], [5])}),
        ("EyeLike", 9, [X], {"k": 1, "dtype": TensorProto.INT64}),
        ("EyeLike", 9, [X], {"k": -1}),
        ("Range", 11, [np.float32(1), np.float32(0), np.float32(-0.3)], {}),
        ("Range", 11, [np.int64(1), np.int64(10), np.int64(4)], {}),
        ("Range", 11, [np.int32(5), np.int32(1), np.int32(1)], {}),
        ("Shape", 1, [np.zeros((2, 0, 3), np.float32)], {}),
        ("Shape", 15, [np.zeros((2, 0, 3), np.float32)], {"start": -2}),
        ("Shape", 15, [np.zeros((2, 0, 3), np.float32)], {"start": -9, "end": -1}),
        ("Shape", 15, [np.zeros((2, 0, 3), np.float32)], {"start": 2, "end": 1}),
        ("Size", 1, [np.zeros((2, 4, 3), np.float32)], {}),
        ("Constant", 11, [], {"value": helper.make_tensor("value", TensorProto.DOUBLE, [2], [1, 2])}),
        ("Constant", 12, [], {"value_floats": [1.0, 2.5]}),
        ("Constant", 12, [], {"value_int": 3}),
        ("Constant", 12, [], {"value_strings": ["a", "b"]}),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_as_onnxruntime(operator: str, version: int, inputs: list[Any], attributes: dict[str, Any]) -> None:
    agrees(operator, version, inputs, **attributes)


@pytest.mark.parametrize(
    ("indices", "shape"), [([1, 5], [2]), ([0, 1, 1, 2], [2, 2])], ids=["places in the flat tensor", "an index per axis"]
)
def test_sparse_constants(indices: list[int], shape: list[int]) -> None:
    values = helper.make_tensor("values", TensorProto.FLOAT, [2], [3.0, 4.0])
    places = helper.make_tensor("indices", TensorProto.INT64, shape, indices)
    (found,) = interpreted("Constant", 11, [], sparse_value=helper.make_sparse_tensor(values, places, [2, 3]))
    assert found.tolist() == [[0, 3, 0], [0, 0, 4]]


def test_masks_of_dropout() -> None:
    x = torch.ones(2, 3)
    assert interpreted("Dropout", 7, [x], 2)[1].dtype == torch.float32
    for version in (10, 12):
        output, mask = interpreted("Dropout", version, [x], 2)
        assert mask.dtype == torch.bool and mask.all() and torch.equal(output, x)


def test_dropout_in_training_scales_what_it_keeps() -> None:
    inputs = [torch.ones(4000), torch.tensor(0.25), torch.tensor(True)]
    output, mask = interpreted("Dropout", 13, inputs, 2, seed=3)
    torch.testing.assert_close(output, mask / 0.75)
    assert 0.7 < mask.float().mean() < 0.8
    assert torch.equal(mask, interpreted("Dropout", 13, inputs, 2, seed=3)[1])


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"])
def test_eight_bit_floats_saturate_unless_they_shall_not(name: str) -> None:
    dtype = getattr(torch, name)
    x, other = torch.tensor([1e6, -torch.inf, torch.nan, 1.0]), torch.zeros(1).to(dtype)
    largest = torch.finfo(dtype).max
    (saturated,) = interpreted("CastLike", 19, [x, other])
    np.testing.assert_array_equal(saturated.float(), [largest, -largest, np.nan, 1])
    (overflown,) = interpreted("CastLike", 19, [x, other], saturate=0)
    beyond = np.inf if name == "float8_e5m2" else np.nan
    np.testing.assert_array_equal(overflown.float(), [beyond, -beyond, np.nan, 1])


def test_ranges_of_half_floats_are_computed_in_float32() -> None:
    numbers = [torch.tensor(number, dtype=torch.float16) for number in (0.0, 100.0, 0.1)]
    (found,) = interpreted("Range", 27, numbers)
    step = float(np.float16(0.1))
    compare(found, (np.arange(np.ceil(100 / step)) * step).astype(np.float16), 1e-3, 0)


def test_gradients_flow_through_casts() -> None:
    x = torch.ones(3, requires_grad=True)
    (y,) = interpreted("Cast", 13, [x], to=TensorProto.DOUBLE)
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1, 1, 1]
