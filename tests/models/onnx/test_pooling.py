"""Pooling: older versions, pads and rounding against onnxruntime, half floats, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.models.onnx.against_runtime import agrees, interpreted
from tests.models.onnx.test_convolutions import SIZES, numbers

SINCE = {"AveragePool": (7, 10, 11, 19, 22), "MaxPool": (7, 8, 10, 11, 12, 22), "LpPool": (7, 11, 18, 22)}
WITH_CEIL = {"AveragePool": 10, "MaxPool": 10, "LpPool": 18}
WITH_DILATIONS = {"AveragePool": 19, "MaxPool": 10, "LpPool": 18}


@pytest.mark.parametrize(("operator", "version"), [(operator, version) for operator in SINCE for version in SINCE[operator]])
def test_versions(operator: str, version: int) -> None:
    x = [numbers(2, 3, 8, 7)]
    shape: dict[str, Any] = {"kernel_shape": [3, 2], "strides": [2, 3]}
    for pads in ({}, {"pads": [1, 0, 2, 1]}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"auto_pad": "VALID"}):
        agrees(operator, version, x, **shape, **pads, tolerance=1e-5)
    if version >= WITH_CEIL[operator]:
        agrees(operator, version, x, **shape, pads=[1, 1, 1, 0], ceil_mode=1, tolerance=1e-5)
    if version >= WITH_DILATIONS[operator]:
        agrees(operator, version, x, **shape, dilations=[2, 3], pads=[1, 0, 2, 1], tolerance=1e-5)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("pads", [(1, 1), (2, 0)])
@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("dilation", [1, 2])
def test_numbers_of_axes(axes: int, pads: tuple[int, int], ceil: int, dilation: int) -> None:
    x = [numbers(2, 3, *SIZES[:axes])]
    shape = {"kernel_shape": [3] * axes, "strides": [2] * axes, "pads": [pads[0]] * axes + [pads[1]] * axes}
    shape.update(ceil_mode=ceil, dilations=[dilation] * axes)
    for included in (0, 1):
        agrees("AveragePool", 19, x, **shape, count_include_pad=included, tolerance=1e-5)
    for order in (0, 1):
        agrees("MaxPool", 12, x, outputs=2, **shape, storage_order=order)
    agrees("LpPool", 18, x, **shape, p=3, tolerance=1e-5)


def test_windows_that_start_behind_the_input_are_dropped() -> None:
    (y,) = interpreted(
        "MaxPool", 22, [torch.arange(2.0).reshape(1, 1, 2)], kernel_shape=[1], strides=[2], pads=[0, 1], ceil_mode=1
    )
    assert y.tolist() == [[[0]]]


def test_pads_of_dilated_windows() -> None:
    # onnxruntime leaves the dilation out, so that its output is shorter than ONNX says.
    (y,) = interpreted(
        "MaxPool", 22, [torch.arange(6.0).reshape(1, 1, 6)], kernel_shape=[2], dilations=[2], auto_pad="SAME_UPPER"
    )
    assert y.tolist() == [[[1, 2, 3, 4, 5, 4]]]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float16, np.float64])
def test_dtypes_of_maxima(dtype: Any) -> None:
    x = (numbers(1, 2, 6, 5) * 20).astype(dtype)
    agrees("MaxPool", 12, [x], outputs=1 if dtype == np.float16 else 2, kernel_shape=[2, 3], pads=[0, 1, 1, 0])


def test_half_floats_do_not_overflow() -> None:
    x = torch.full((1, 1, 4, 4), 60000.0, dtype=torch.float16)
    for attributes in ({"pads": [1, 1, 1, 1]}, {"dilations": [2, 1]}):
        assert interpreted("AveragePool", 22, [x], kernel_shape=[2, 2], **attributes)[0].unique().tolist() == [60000]
    assert interpreted("GlobalAveragePool", 1, [x])[0].item() == 60000


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_whole_axes(operator: str, axes: int) -> None:
    agrees(operator, 7, [numbers(2, 3, *SIZES[:axes])], tolerance=1e-5)
    assert interpreted(operator, 22, [torch.zeros(0, 3, *SIZES[:axes])])[0].shape == (0, 3, *[1] * axes)


@pytest.mark.parametrize("operator", ["AveragePool", "MaxPool", "LpPool"])
def test_no_images(operator: str) -> None:
    x = torch.zeros(0, 3, 5, 5)
    for pads in ([0, 0, 0, 0], [0, 1, 1, 0]):
        y = interpreted(operator, 22, [x], kernel_shape=[2, 3], pads=pads)[0]
        assert y.shape == (0, 3, 4 + pads[2], 3 + pads[1])


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_unpooling_puts_maxima_back(axes: int) -> None:
    x = numbers(2, 3, *[6] * axes)
    pooling = {"kernel_shape": [2] * axes, "strides": [2] * axes}
    y, index = (value.numpy() for value in interpreted("MaxPool", 12, [torch.from_numpy(x)], outputs=2, **pooling))
    agrees("MaxUnpool", 9, [y, index], **pooling)
    (back,) = interpreted("MaxUnpool", 11, [torch.from_numpy(y), torch.from_numpy(index)], **pooling)
    assert torch.equal(back, torch.where(back == 0, back, torch.from_numpy(x))) and (back != 0).sum() == y.size


@pytest.mark.parametrize("operator", ["AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
def test_gradients(operator: str) -> None:
    x = torch.zeros(2, 3, 6, 5)
    x[0] = torch.from_numpy(numbers(3, 6, 5))  # the other image is constant, where norms have no derivative
    x.requires_grad_()
    attributes = {} if operator.startswith("Global") else {"kernel_shape": [2, 2], "pads": [0, 1, 1, 0]}
    interpreted(operator, 22, [x], **attributes)[0].sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad[0].abs().sum() > 0
