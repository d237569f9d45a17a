"""Resize: every axis is interpolated on its own, by weights that depend only on the lengths before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dyncompress.models.onnx.node import Functions, Node
from dyncompress.models.onnx.operators.sampling import cubic_weight
from dyncompress.models.onnx.values import integers


@dataclass(frozen=True)
class Axis:
    """How one axis is resized.

    Attributes:
        number: of the axis.
        before: its length.
        after: its new length.
        scale: the quotient that was asked for, which `after` may be rounded from.
        region: where it starts and ends for tf_crop_and_resize, as parts of the axis.
    """

    number: int
    before: int
    after: int
    scale: float
    region: tuple[float, float] = (0.0, 1.0)


def _rounded(number: float) -> float:
    """A number in single precision, in which onnxruntime computes lengths and places."""
    return torch.tensor(number, dtype=torch.float32).item()


def _axes(node: Node, x: Tensor, roi: Tensor | None, scales: Tensor | None, sizes: Tensor | None) -> list[Axis]:
    """What happens to the axes that are resized."""
    chosen = [axis % x.ndim for axis in node.get("axes") or range(x.ndim)]
    regions = [] if roi is None else [float(number) for number in roi.reshape(-1).tolist()]
    if len(regions) != 2 * len(chosen) or node.get("coordinate_transformation_mode") != "tf_crop_and_resize":
        regions = [0.0] * len(chosen) + [1.0] * len(chosen)
    before = [x.shape[axis] for axis in chosen]
    if scales is not None and scales.numel():
        factors = [float(scale) for scale in scales.reshape(-1).tolist()]
        after = [math.floor(_rounded(_rounded(factor) * size)) for factor, size in zip(factors, before, strict=True)]
    else:
        after = integers(sizes)
        factors = [out / size if size else 1.0 for out, size in zip(after, before, strict=True)]
        policy = node.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            factors = [(min if policy == "not_larger" else max)(factors)] * len(factors)
            after = [math.floor(factor * size + 0.5) for factor, size in zip(factors, before, strict=True)]
    spans = zip(regions[: len(chosen)], regions[len(chosen) :], strict=True)
    return [Axis(*numbers) for numbers in zip(chosen, before, after, factors, spans, strict=True)]


def _places(axis: Axis, mode: str) -> Tensor:
    """Where the elements of the new axis lie on the old one."""
    x, scale = torch.arange(axis.after, dtype=torch.float32), _rounded(axis.scale)
    start, end = axis.region
    length = scale * axis.before  # may lie between two numbers
    last = axis.before - 1
    if mode == "align_corners":
        return torch.zeros_like(x) if length == 1 else x * last / (length - 1)
    if mode == "asymmetric":
        return x / scale
    if mode == "tf_crop_and_resize":
        if axis.after > 1:
            return start * last + x * (end - start) * last / (length - 1)
        return torch.full_like(x, 0.5 * (start + end) * last)
    if mode == "pytorch_half_pixel" and axis.after <= 1:
        return torch.zeros_like(x)
    if mode == "half_pixel_symmetric":
        return axis.before / 2 * (1 - axis.after / length) + (x + 0.5) / scale - 0.5
    return (x + 0.5) / scale - 0.5


_NEAREST = {
    "round_prefer_floor": lambda x: (x - 0.5).ceil(),
    "round_prefer_ceil": lambda x: (x + 0.5).floor(),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


def _taps(node: Node, axis: Axis, places: Tensor) -> tuple[Tensor, Tensor]:
    """The elements of the old axis that every new one is a mean of, and their weights: new length x taps."""
    mode = node.get("mode", "nearest")
    cubic, a = mode == "cubic", node.get("cubic_coeff_a", -0.75)
    shrink = min(axis.scale, 1.0) if node.get("antialias", 0) else 1.0
    low = places.floor()
    reach = math.ceil((2 if cubic else 1) / shrink)
    shifts = torch.arange(1 - reach, reach + 1)
    index = low[:, None] + shifts
    distance = (index - places[:, None]) * shrink
    weights = cubic_weight(distance, a) if cubic else (1 - distance.abs()).clamp(min=0)
    outside = (index < 0) | (index >= axis.before)
    if node.get("exclude_outside", 0):
        weights = torch.where(outside, torch.zeros_like(weights), weights)
    if node.get("exclude_outside", 0) or shrink < 1:
        total = weights.sum(1, keepdim=True)
        weights = weights / torch.where(total == 0, torch.ones_like(total), total)
    return index.clamp(0, axis.before - 1).to(torch.int64), weights


def _resized(node: Node, x: Tensor, axis: Axis) -> Tensor:
    """`x` with one axis resized."""
    transformation = node.get("coordinate_transformation_mode", "half_pixel")
    places = _places(axis, transformation)
    if node.get("mode", "nearest") == "nearest":
        index = _NEAREST[node.get("nearest_mode", "round_prefer_floor")](places).clamp(0, axis.before - 1)
        y = x.index_select(axis.number, index.to(x.device, torch.int64))
    else:
        index, weights = (each.to(x.device) for each in _taps(node, axis, places))
        shape = [1] * x.ndim
        shape[axis.number] = axis.after
        y = torch.zeros((), dtype=x.dtype, device=x.device)
        for tap, weight in zip(index.unbind(1), weights.to(x.dtype.to_real()).unbind(1), strict=True):
            y = y + x.index_select(axis.number, tap) * weight.reshape(shape)
    if transformation != "tf_crop_and_resize":
        return y
    shape = [1] * x.ndim
    shape[axis.number] = axis.after
    outside = ((places < 0) | (places > axis.before - 1)).reshape(shape).to(x.device)
    return torch.where(outside, torch.tensor(node.get("extrapolation_value", 0.0), device=x.device).to(y.dtype), y)


def _interpolated(node: Node, x: Tensor, axes: Sequence[Axis]) -> Tensor | None:
    """The same by torch's own interpolation of images, where its meaning is the node's."""
    mode, transformation = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    known = {("linear", 3): "linear", ("linear", 4): "bilinear", ("linear", 5): "trilinear", ("cubic", 4): "bicubic"}
    if (mode, x.ndim) not in known or node.get("antialias", 0) or node.get("exclude_outside", 0) or x.is_complex():
        return None
    if transformation not in ("half_pixel", "pytorch_half_pixel", "align_corners") or x.numel() == 0:
        return None
    if node.get("cubic_coeff_a", -0.75) != -0.75:
        return None
    after = list(x.shape)
    for axis in axes:
        whole = axis.after > 1 and abs(axis.scale * axis.before - axis.after) < 1e-6
        if axis.number < 2 or not whole:
            return None
        after[axis.number] = axis.after
    return functional.interpolate(x, after[2:], mode=known[mode, x.ndim], align_corners=transformation == "align_corners")


def _resize(node: Node, x: Tensor, axes: Sequence[Axis]) -> Tensor:
    """`x` with the axes resized one after the other."""
    axes = [axis for axis in axes if axis.after != axis.before or axis.scale != 1 or axis.region != (0.0, 1.0)]
    if any(axis.after == 0 for axis in axes) or x.numel() == 0:
        shape = list(x.shape)
        for axis in axes:
            shape[axis.number] = axis.after
        return x.new_zeros(shape)
    if not axes:
        return x
    exact = node.get("mode", "nearest") == "nearest" or x.is_complex()
    wide = torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.float64
    data = x if exact else x.to(wide)
    y = _interpolated(node, data, axes)
    if y is None:
        y = data
        for axis in axes:
            y = _resized(node, y, axis)
    if exact or x.is_floating_point():
        return y.to(x.dtype)
    low, high = (0, 1) if x.dtype == torch.bool else (torch.iinfo(x.dtype).min, torch.iinfo(x.dtype).max)
    return y.round().clamp(low, high).to(x.dtype)


def resize(node: Node, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
    """`x` with other lengths of its axes."""
    return _resize(node, x, _axes(node, x, roi, scales, sizes))


def resize_10(node: Node, x: Tensor, scales: Tensor) -> Tensor:
    """The first Resize, which has no attribute but the mode."""
    attributes = {"mode": node.get("mode", "nearest"), "coordinate_transformation_mode": "asymmetric"}
    for axis in _axes(node, x, None, scales, None):
        # A shorter axis takes the next element and a longer one the previous, as onnxruntime has it.
        nearest = {"nearest_mode": "ceil" if axis.scale < 1 else "floor"}
        own = Node(node.name, node.operator, node.domain, node.version, {**attributes, **nearest}, node.outputs)
        x = _resize(own, x, [axis])
    return x


FUNCTIONS: Functions = {"Resize": {10: resize_10, 11: resize}}
