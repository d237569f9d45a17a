"""Resizing, sampling, regions and boxes: older versions and options against onnxruntime, gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from dyncompress.models.onnx.operators import resizing
from tests.models.onnx.against_runtime import agrees, interpreted
from tests.models.onnx.test_convolutions import numbers

X = numbers(1, 2, 4, 5)
WHOLE = np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(2.0, 3.0), (0.6, 1.7), (0.5, 0.75), (1.0, 2.5)])
def test_first_resize(mode: str, scales: tuple[float, float]) -> None:
    agrees("Resize", 10, [X, floats(1, 1, *scales)], mode=mode, tolerance=1e-5)


@pytest.mark.parametrize("version", [11, 13, 18, 19])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("places", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
def test_resize_to_sizes(version: int, mode: str, places: str) -> None:
    options: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": places}
    scales = floats() if version == 11 else None
    for sizes in ((6, 9), (3, 2), (1, 1), (7, 5)):
        agrees("Resize", version, [X, WHOLE, scales, np.array([1, 2, *sizes])], **options, tolerance=1e-5)
    if mode == "cubic":
        options.update(cubic_coeff_a=-0.5, exclude_outside=1)
        agrees("Resize", version, [X, WHOLE, scales, np.array([1, 2, 3, 8])], **options, tolerance=1e-5)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("places", ["half_pixel", "asymmetric", "pytorch_half_pixel"])
def test_resize_by_scales(rounding: str, places: str) -> None:
    for scales in ((2.0, 0.5), (0.6, 1.7), (0.75, 1.5)):
        options = {"coordinate_transformation_mode": places}
        agrees("Resize", 13, [X, None, floats(1, 1, *scales)], **options, nearest_mode=rounding)
        agrees("Resize", 13, [X, None, floats(1, 1, *scales)], **options, mode="linear", tolerance=1e-5)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("sizes", [(2, 3), (1, 9), (4, 2)])
@pytest.mark.parametrize("outside", [0, 1])
def test_resize_without_aliases(mode: str, sizes: tuple[int, int], outside: int) -> None:
    if outside and mode == "linear":
        return  # onnxruntime refuses it
    options = {"mode": mode, "antialias": 1, "exclude_outside": outside}
    agrees("Resize", 18, [X, None, None, np.array([1, 2, *sizes])], **options, tolerance=1e-5)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
@pytest.mark.parametrize("axes", [[2, 3], [3, 2]])
def test_resize_chosen_axes(policy: str, axes: list[int]) -> None:
    options: dict[str, Any] = {"keep_aspect_ratio_policy": policy, "mode": "linear"}
    sizes = np.array([7, 9])
    agrees("Resize", 18, [X, None, None, sizes], axes=axes, **options, tolerance=1e-5)
    agrees("Resize", 19, [X, None, floats(2, 0.5)], axes=axes, coordinate_transformation_mode="half_pixel_symmetric")
    inputs = [torch.from_numpy(X), torch.zeros(0), torch.zeros(0), torch.from_numpy(sizes)]
    one, other = (interpreted("Resize", 18, inputs, axes=chosen, **options)[0] for chosen in (axes, [axis - 4 for axis in axes]))
    assert torch.equal(one, other)  # onnxruntime forgets the policy where axes are negative


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_a_region(mode: str) -> None:
    options = {"mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 3.0}
    roi = floats(0, 0, 0.1, -0.2, 1, 1, 0.8, 1.3)
    agrees("Resize", 13, [X, roi, None, np.array([1, 2, 6, 8])], **options, tolerance=1e-5)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("places", ["half_pixel", "align_corners"])
@pytest.mark.parametrize("shape", [(1, 2, 5), (2, 1, 4, 5), (1, 2, 3, 4, 5)])
def test_torch_interpolates_as_we_do(mode: str, places: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    x, sizes = torch.from_numpy(numbers(*shape)), torch.tensor([*shape[:2], *[size * 2 - 1 for size in shape[2:]]])
    options = {"mode": mode, "coordinate_transformation_mode": places}
    inputs = [x, torch.zeros(0), torch.zeros(0), sizes]
    (by_torch,) = interpreted("Resize", 11, inputs, **options)
    monkeypatch.setattr(resizing, "_interpolated", lambda *arguments: None)
    torch.testing.assert_close(interpreted("Resize", 11, inputs, **options)[0], by_torch, rtol=1e-5, atol=1e-5)


def test_dtypes_and_lengths_of_resize() -> None:
    empty, twice = torch.zeros(0), torch.tensor([1.0, 1.0, 2.0])
    for dtype in (torch.uint8, torch.uint16, torch.uint32, torch.bool, torch.int64, torch.float16, torch.complex64):
        y = interpreted("Resize", 13, [torch.tensor([[[0, 1]]]).to(dtype), empty, twice])[0]
        assert y.dtype == dtype and torch.equal(y, torch.tensor([[[0, 0, 1, 1]]]).to(dtype))
    (y,) = interpreted("Resize", 13, [torch.tensor([[[0, 255, 0]]], dtype=torch.uint8), empty, twice], mode="cubic")
    assert y.dtype == torch.uint8 and y.flatten().tolist() == [0, 67, 224, 224, 67, 0]  # the first and last would be negative
    assert interpreted("Resize", 13, [torch.zeros(0, 2, 3), empty, twice], mode="linear")[0].shape == (0, 2, 6)
    assert interpreted("Resize", 13, [torch.zeros(1, 2, 3), empty, empty, torch.tensor([1, 2, 0])], mode="linear")[0].shape == (
        1,
        2,
        0,
    )


@pytest.mark.parametrize(("version", "modes"), [(16, ("nearest", "bilinear", "bicubic")), (20, ("nearest", "linear", "cubic"))])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [0, 1])
def test_sampling(version: int, modes: tuple[str, ...], padding: str, corners: int) -> None:
    for mode in modes:
        options = {"mode": mode, "padding_mode": padding, "align_corners": corners}
        agrees("GridSample", version, [numbers(2, 2, 4, 5), numbers(2, 3, 4, 2) * 1.4], **options, tolerance=1e-4)
        if version == 20 and mode != "cubic":
            agrees("GridSample", 20, [numbers(1, 2, 3, 4, 5), numbers(1, 2, 3, 2, 3) * 1.2], **options, tolerance=1e-4)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_sampling_along_one_axis_is_that_of_a_row(mode: str, padding: str) -> None:
    x, place = torch.from_numpy(numbers(2, 3, 6)), torch.from_numpy(numbers(2, 5, 1) * 1.5)
    options = {"mode": mode, "padding_mode": padding, "align_corners": 1}
    (y,) = interpreted("GridSample", 22, [x, place], **options)
    row = torch.stack([place, torch.zeros_like(place)], -1)
    (wanted,) = interpreted("GridSample", 22, [x[:, :, None], row], **options)
    torch.testing.assert_close(y[..., None], wanted, rtol=1e-4, atol=1e-5)


def test_sampling_half_way_takes_the_even_pixel() -> None:
    x, places = torch.arange(5.0).reshape(1, 1, 1, 5), torch.tensor([-1.5, 0.5, 1.5, 5.5])
    grid = torch.stack([places / 2 - 1, torch.zeros(4)], -1).reshape(1, 1, 4, 2)
    options = {"mode": "nearest", "align_corners": 1}
    for padding, wanted in {"zeros": [0, 0, 2, 0], "border": [0, 0, 2, 4], "reflection": [2, 0, 2, 2]}.items():
        (y,) = interpreted("GridSample", 20, [x, grid], **options, padding_mode=padding)
        assert y.flatten().tolist() == wanted


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("size", [(2, 3, 3, 4), (2, 3, 2, 3, 4)])
def test_grids(corners: int, size: tuple[int, ...]) -> None:
    axes = len(size) - 2
    agrees("AffineGrid", 20, [numbers(2, axes, axes + 1), np.array(size)], align_corners=corners, tolerance=1e-5)


ROIS = floats(*[0.5, 1, 4, 3], *[0, 0, 6.5, 5.5], *[2, 2, 2.5, 9], *[3, 1, 2, 0], *[-2, -1, 3, 4]).reshape(5, 4)
IMAGES = np.array([1, 0, 1, 0, 1])


@pytest.mark.parametrize(("version", "shift"), [(10, None), (16, "half_pixel"), (16, "output_half_pixel")])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 1, 2])
def test_aligned_regions(version: int, shift: str | None, mode: str, ratio: int) -> None:
    options = {"mode": mode, "sampling_ratio": ratio, "output_height": 2, "output_width": 3, "spatial_scale": 0.75}
    options.update({"coordinate_transformation_mode": shift} if shift else {})
    agrees("RoiAlign", version, [numbers(2, 3, 6, 7), ROIS, IMAGES], **options, tolerance=1e-5)


def test_maxima_of_regions() -> None:
    rois = np.concatenate([IMAGES[:, None].astype(np.float32), ROIS], 1)
    for scale in (1.0, 0.5):
        agrees("MaxRoiPool", 7, [numbers(2, 3, 6, 7), rois], pooled_shape=[2, 3], spatial_scale=scale)


@pytest.mark.parametrize("version", [10, 11])
@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize("limits", [(0, 0.5, 0.1), (2, 0.5, 0.4), (20, 0.0, 0.4), (20, 0.3, None), (20, None, None), (None,) * 3])
def test_boxes_with_equal_scores(version: int, center: int, limits: tuple[float | None, ...]) -> None:
    boxes, scores = np.round(np.abs(numbers(2, 14, 4)) * 3, 1), np.round(np.abs(numbers(2, 3, 14)), 1)
    most, overlap, score = limits
    inputs = [
        *[boxes, scores, None if most is None else np.array([most])],
        *[None if limit is None else floats(limit) for limit in (overlap, score)],
    ]
    agrees("NonMaxSuppression", version, inputs, center_point_box=center)


def test_no_regions_and_no_boxes() -> None:
    x = torch.zeros(1, 2, 3, 3)
    assert interpreted("RoiAlign", 16, [x, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)])[0].shape == (0, 2, 1, 1)
    assert interpreted("MaxRoiPool", 7, [x, torch.zeros(0, 5)], pooled_shape=[2, 2])[0].shape == (0, 2, 2, 2)
    assert interpreted("NonMaxSuppression", 11, [torch.zeros(1, 0, 4), torch.zeros(1, 2, 0), torch.tensor(3)])[0].shape == (0, 3)
    assert interpreted("GridSample", 20, [torch.zeros(0, 2, 3, 3), torch.zeros(0, 2, 2, 2)])[0].shape == (0, 2, 2, 2)
    half = torch.from_numpy(X).half()
    (y,) = interpreted("RoiAlign", 22, [half, torch.tensor([[0, 0, 3, 3]]).half(), torch.zeros(1, dtype=torch.int64)], mode="max")
    assert y.dtype == torch.float16 and math.isfinite(y.sum())


@pytest.mark.parametrize(
    ("operator", "version", "others", "attributes"),
    [
        ("Resize", 10, [floats(1, 1, 1.5, 0.5)], {"mode": "linear"}),
        ("Resize", 18, [floats(), floats(1, 1, 0.5, 0.5)], {"mode": "cubic", "antialias": 1}),
        ("Resize", 13, [floats(), floats(1, 1, 2, 2)], {}),
        ("GridSample", 16, [numbers(1, 3, 4, 2) * 0.4], {}),
        ("GridSample", 20, [numbers(1, 3, 4, 2) * 0.4], {"mode": "cubic", "padding_mode": "border"}),
        ("RoiAlign", 16, [ROIS / 2, IMAGES * 0], {}),
        ("RoiAlign", 16, [ROIS / 2, IMAGES * 0], {"mode": "max"}),
        ("MaxRoiPool", 7, [floats(0, 0, 0, 3, 3).reshape(1, 5)], {"pooled_shape": [2, 2]}),
    ],
)
def test_gradients(operator: str, version: int, others: list[np.ndarray], attributes: dict[str, Any]) -> None:
    x = torch.from_numpy(X).clone().requires_grad_()
    rest = [torch.from_numpy(other) for other in others]
    if operator in ("GridSample", "RoiAlign"):
        rest[0].requires_grad_()
    interpreted(operator, version, [x, *rest], **attributes)[0].square().sum().backward()
    for value in (x, *rest):
        if value.requires_grad:
            assert value.grad is not None and value.grad.isfinite().all() and value.grad.abs().sum() > 0
