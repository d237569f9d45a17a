"""Convolutions: older versions and pads of all kinds against onnxruntime, half floats, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dyncompress.models.onnx.node import Node, NoTorchFunctionError
from dyncompress.models.onnx.operators.convolutions import explicit_pads
from tests.models.onnx.against_runtime import agrees, interpreted

SIZES = (7, 5, 6)


def numbers(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": 2, "dilations": 2, "pads": (1, 1)},
        {"strides": 3, "pads": (2, 0), "group": 2},
        {"strides": 2, "auto_pad": "SAME_UPPER"},
        {"strides": 3, "auto_pad": "SAME_LOWER", "group": 2},
        {"auto_pad": "VALID"},
    ],
)
def test_pads_strides_and_groups(operator: str, axes: int, attributes: dict[str, Any]) -> None:
    given = {name: [value] * axes for name, value in attributes.items() if name in ("strides", "dilations")}
    if "pads" in attributes:
        given["pads"] = [attributes["pads"][0]] * axes + [attributes["pads"][1]] * axes
    rest = {name: value for name, value in attributes.items() if name in ("auto_pad", "group")}
    group = rest.get("group", 1)
    shape = (4, 6 // group) if operator == "ConvTranspose" else (6, 4 // group)
    inputs = [numbers(2, 4, *SIZES[:axes]), numbers(*shape, *[3, 3, 3][:axes]), numbers(6)]
    agrees(operator, 7 if axes == 2 else 11, inputs, **given, **rest, tolerance=1e-4)


@pytest.mark.parametrize(
    "attributes",
    [
        {"output_padding": [1, 0], "strides": [2, 2]},
        {"output_padding": [1, 1], "strides": [2, 2], "pads": [1, 0, 0, 1]},
        {"output_shape": [10, 8], "strides": [2, 2]},
        {"output_shape": [8, 5], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"output_shape": [8, 6], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"output_shape": [11, 9], "strides": [2, 2], "output_padding": [1, 1]},
    ],
)
def test_shape_of_a_transposed_convolution(attributes: dict[str, Any]) -> None:
    agrees("ConvTranspose", 11, [numbers(1, 2, 5, 4), numbers(2, 3, 3, 3), numbers(3)], **attributes, tolerance=1e-4)


def test_a_transposed_convolution_as_long_as_its_strides_say() -> None:
    (y,) = interpreted("ConvTranspose", 11, [torch.ones(1, 1, 3), torch.ones(1, 1, 1)], strides=[2], auto_pad="SAME_UPPER")
    assert y.tolist() == [[[1, 0, 1, 0, 1, 0]]]  # onnxruntime leaves the last out


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_explicit_pads(mode: str) -> None:
    node = Node("", "Conv", "", 11, {"auto_pad": mode, "strides": [2, 1], "dilations": [1, 2]}, ())
    assert explicit_pads(node, [6, 5], [3, 2]) == ([0, 1, 1, 1] if mode == "SAME_UPPER" else [1, 1, 0, 1])
    assert explicit_pads(Node("", "Conv", "", 11, {"auto_pad": mode, "strides": [3]}, ()), [4], [1]) == [0, 0]


def test_half_floats_and_no_images() -> None:
    agrees("Conv", 11, [numbers(1, 2, 5, 5, dtype=np.float16), numbers(3, 2, 3, 3, dtype=np.float16)], tolerance=1e-2)
    agrees("Conv", 11, [np.zeros((0, 2, 5, 5), np.float32), numbers(3, 2, 3, 3)], pads=[0, 1, 1, 1])
    assert interpreted("ConvTranspose", 11, [torch.zeros(0, 2, 5), torch.ones(2, 3, 2)], output_padding=[1])[0].shape == (0, 3, 7)
    offset = torch.zeros(0, 18, 3, 3)
    assert interpreted("DeformConv", 19, [torch.zeros(0, 2, 5, 5), torch.ones(4, 2, 3, 3), offset])[0].shape == (0, 4, 3, 3)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_deformed_convolution_without_offsets_is_one(axes: int) -> None:
    x, w, b = (torch.from_numpy(numbers(*shape)) for shape in ((2, 4, *SIZES[:axes]), (6, 2, *[3] * axes), (6,)))
    attributes = {"pads": [1] * axes + [2] * axes, "strides": [2] * axes, "group": 2}
    (y,) = interpreted("Conv", 11, [x, w, b], **attributes)
    offset = torch.zeros(2, 2 * 3**axes * axes, *y.shape[2:])
    mask = torch.full((2, 2 * 3**axes, *y.shape[2:]), 0.5)
    (own,) = interpreted("DeformConv", 19, [x, w, offset, b, mask], offset_group=2, **attributes)
    shift = b.reshape(-1, *[1] * axes)
    torch.testing.assert_close(own, (y - shift) / 2 + shift, rtol=1e-4, atol=1e-5)


def test_deformed_convolution_reads_between_pixels() -> None:
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    offset = torch.tensor([0.5, -0.25]).reshape(1, 2, 1, 1).expand(1, 2, 3, 4)
    (y,) = interpreted("DeformConv", 19, [x, torch.ones(1, 1, 1, 1), offset])
    assert y[0, 0, 1, 1:].tolist() == [6.75, 7.75, 8.75]
    assert y[0, 0, 2, 1:].tolist() == [4.375, 4.875, 5.375]  # half of it lies outside


@pytest.mark.parametrize(
    ("image", "block", "attributes"),
    [
        ([4, 5], [2, 3], {}),
        ([5, 5], [2, 2], {"pads": [1, 0, 0, 2], "strides": [2, 1]}),
        ([6, 5], [2, 2], {"dilations": [2, 1]}),
        ([3, 4, 5], [2, 2, 2], {}),
    ],
)
def test_columns_to_images(image: list[int], block: list[int], attributes: dict[str, Any]) -> None:
    axes = len(image)
    pads, strides = attributes.get("pads", [0] * (2 * axes)), attributes.get("strides", [1] * axes)
    dilations = attributes.get("dilations", [1] * axes)
    counts = [(image[a] + pads[a] + pads[a + axes] - dilations[a] * (block[a] - 1) - 1) // strides[a] + 1 for a in range(axes)]
    columns = numbers(2, 3 * int(np.prod(block)), int(np.prod(counts)))
    agrees("Col2Im", 18, [columns, np.array(image), np.array(block)], **attributes, tolerance=1e-5)


def test_columns_of_integers() -> None:
    columns = torch.full((1, 2, 3), 40000, dtype=torch.uint16)
    (y,) = interpreted("Col2Im", 18, [columns, torch.tensor([1, 4]), torch.tensor([1, 2])])
    assert y.dtype == torch.uint16 and y.flatten().tolist() == [40000, 80000 - 65536, 80000 - 65536, 40000]


def test_four_axes_are_too_many() -> None:
    with pytest.raises(NoTorchFunctionError, match="4 axes"):
        interpreted("Conv", 11, [torch.ones(1, 1, 1, 1, 1, 1)] * 2)


@pytest.mark.parametrize(
    ("operator", "version", "shapes", "attributes"),
    [
        ("Conv", 11, [(1, 2, 5, 5), (3, 2, 3, 3), (3,)], {"pads": [1, 0, 0, 1]}),
        ("ConvTranspose", 11, [(1, 2, 5, 5), (2, 3, 3, 3), (3,)], {"pads": [1, 0, 0, 1]}),
        ("DeformConv", 19, [(1, 2, 5, 5), (3, 2, 3, 3), (1, 18, 3, 3), (3,), (1, 9, 3, 3)], {}),
        ("CausalConvWithState", 27, [(1, 2, 5), (2, 1, 3), (2,), (1, 2, 2)], {"activation": "silu"}),
    ],
)
def test_gradients(operator: str, version: int, shapes: list[tuple[int, ...]], attributes: dict[str, Any]) -> None:
    inputs = [torch.from_numpy(numbers(*shape)).requires_grad_() for shape in shapes]
    interpreted(operator, version, inputs, **attributes)[0].sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() and x.grad.abs().sum() > 0 for x in inputs)
