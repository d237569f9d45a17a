"""Pooling over one to three axes, and its inverse: AveragePool, MaxPool, LpPool, MaxUnpool, Global..."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dyncompress.models.onnx.node import Functions, Node, NoTorchFunctionError
from dyncompress.models.onnx.operators.convolutions import explicit_pads, paired, per_axis
from dyncompress.models.onnx.operators.widening import precise
from dyncompress.models.onnx.values import integers

_AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_MAXIMUM = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


@dataclass(frozen=True)
class Windows:
    """Where the windows of a pooling lie; all lists have one number per spatial axis.

    Attributes:
        kernel: size without dilation.
        strides: steps between windows.
        dilations: steps between the elements of a window.
        before: pads before the input.
        after: pads after it.
        reach: pads after it that the last window reads up to; negative where it doesn't read all of the input.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]
    reach: list[int]

    @property
    def plain(self) -> bool:
        """Whether torch's own padding and rounding give the same windows."""
        return all(
            before == after and reach <= after and 2 * before <= kernel
            for kernel, before, after, reach in zip(self.kernel, self.before, self.after, self.reach, strict=True)
        )

    def pad(self, x: Tensor, value: float) -> Tensor:
        """The input extended, or cut, to what the windows read."""
        pads = paired(self.before + self.reach)
        return functional.pad(x, pads, value=value) if any(pads) else x

    def view(self, padded: Tensor) -> Tensor:
        """A view of the padded input with an axis per spatial axis more, the elements of a window."""
        for axis, (kernel, stride, dilation) in enumerate(zip(self.kernel, self.strides, self.dilations, strict=True), 2):
            padded = padded.unfold(axis, (kernel - 1) * dilation + 1, stride)[..., ::dilation]
        return padded


def windows(node: Node, spatial_shape: Sequence[int]) -> Windows:
    """The windows of a pooling node over an input."""
    axes = len(spatial_shape)
    if axes not in _AVERAGE:
        raise NoTorchFunctionError(f"torch has no pooling over {axes} axes")
    kernel = list(node.attributes["kernel_shape"])
    strides, dilations = per_axis(node, "strides", axes), per_axis(node, "dilations", axes)
    pads = explicit_pads(node, spatial_shape, kernel)
    reach = []
    for axis, size in enumerate(spatial_shape):
        before, stride, extent = pads[axis], strides[axis], (kernel[axis] - 1) * dilations[axis] + 1
        free = size + before + pads[axis + axes] - extent
        last = free // stride
        if node.get("ceil_mode", 0):
            last = -(-free // stride)
            if last * stride >= size + before:  # a window that starts behind the input isn't one
                last -= 1
        reach.append(max(last, -1) * stride + extent - size - before)
    return Windows(kernel, strides, dilations, pads[:axes], pads[axes:], reach)


def average_pool(node: Node, x: Tensor) -> Tensor:
    """The mean of every window, of the elements inside the input or of all."""
    places, with_pads, axes = windows(node, x.shape[2:]), bool(node.get("count_include_pad", 0)), x.ndim - 2
    if places.plain and set(places.dilations) == {1} and x.numel():
        return _AVERAGE[axes](precise(x), places.kernel, places.strides, places.before, False, with_pads).to(x.dtype)
    inside = x.new_ones(1, 1, *x.shape[2:], dtype=torch.float32)
    if with_pads:
        inside = functional.pad(inside, paired(places.before + places.after), value=1.0)
        whole = Windows(**{**vars(places), "before": [0] * axes, "reach": _less(places.reach, places.after)})
        inside = whole.pad(inside, 0.0)
    else:
        inside = places.pad(inside, 0.0)
    last = tuple(range(-axes, 0))
    total, count = places.view(places.pad(precise(x), 0.0)).sum(last), places.view(inside).sum(last)
    return (total / count).to(x.dtype)


def _less(numbers: Sequence[int], others: Sequence[int]) -> list[int]:
    """Differences, one by one."""
    return [number - other for number, other in zip(numbers, others, strict=True)]


def max_pool(node: Node, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    """The maximum of every window, and where in the input it lies."""
    places, axes = windows(node, x.shape[2:]), x.ndim - 2
    if x.numel() == 0:
        empty = x.new_zeros(places.view(places.pad(x, 0.0)).shape[: x.ndim])
        return empty, empty.to(torch.int64)
    # Torch has no kernels for 8 bits; single precision holds them exactly.
    data = x if x.is_floating_point() and (x.is_cuda or x.dtype.itemsize > 2) else x.float()
    padded = data if places.plain else places.pad(data, -math.inf)
    by_torch, by_us = (places.before, [0] * axes) if places.plain else ([0] * axes, places.before)
    arguments = (padded, places.kernel, places.strides, by_torch, places.dilations, False)
    if len(node.outputs) < 2 or not node.outputs[1]:
        return _MAXIMUM[axes](*arguments).to(x.dtype)
    y, index = _MAXIMUM[axes](*arguments, True)
    return y.to(x.dtype), _flat_indices(index, x.shape, padded.shape[2:], by_us, bool(node.get("storage_order", 0)))


def _flat_indices(
    index: Tensor, shape: Sequence[int], padded: Sequence[int], before: Sequence[int], column_major: bool
) -> Tensor:
    """Indices into the whole input, of indices into one padded channel."""
    axes, coordinates = len(padded), []
    for size in reversed(padded):
        coordinates.insert(0, index % size)
        index = index // size
    # A pad is the maximum only where all of its window is -inf, or the least integer.
    coordinates = [(place - pad).clamp(0, size - 1) for place, pad, size in zip(coordinates, before, shape[2:], strict=True)]
    channels = torch.arange(shape[0] * shape[1], device=index.device).reshape(shape[0], shape[1], *[1] * axes)
    order = range(axes - 1, -1, -1) if column_major else range(axes)
    flat = torch.zeros_like(index)
    for axis in order:
        flat = flat * shape[2 + axis] + coordinates[axis]
    return flat + channels * math.prod(shape[2:])


def lp_pool(node: Node, x: Tensor) -> Tensor:
    """The p-norm of every window."""
    places = windows(node, x.shape[2:])
    view = places.view(places.pad(precise(x), 0.0))
    return torch.linalg.vector_norm(view, node.get("p", 2), tuple(range(2 - x.ndim, 0))).to(x.dtype)


def max_unpool(node: Node, x: Tensor, indices: Tensor, output_shape: Tensor | None = None) -> Tensor:
    """Zeros but for `x` at the places where a pooling has found it."""
    axes = x.ndim - 2
    kernel, strides = node.attributes["kernel_shape"], per_axis(node, "strides", axes)
    pads = list(node.get("pads") or [0] * (2 * axes))
    shape = list(x.shape[:2]) + [
        (size - 1) * strides[axis] - pads[axis] - pads[axis + axes] + kernel[axis] for axis, size in enumerate(x.shape[2:])
    ]
    y = x.new_zeros(math.prod(shape)).scatter(0, indices.reshape(-1).to(x.device), x.reshape(-1)).reshape(shape)
    if output_shape is None:
        return y
    more = _less(integers(output_shape)[2:], shape[2:])
    return functional.pad(y, paired([0] * axes + more))


def _whole(function: Callable[[Tensor, tuple[int, ...]], Tensor]) -> Callable[[Node, Tensor], Tensor]:
    """An operator that reduces all spatial axes, and keeps them as axes of length 1."""

    def pool(node: Node, x: Tensor) -> Tensor:
        """Every channel's one number."""
        return function(x, tuple(range(2, x.ndim))) if x.ndim > 2 else x

    return pool


def global_lp_pool(node: Node, x: Tensor) -> Tensor:
    """Every channel's p-norm."""
    axes = tuple(range(2, x.ndim))
    return torch.linalg.vector_norm(precise(x), node.get("p", 2), axes, keepdim=True).to(x.dtype) if axes else x.abs()


FUNCTIONS: Functions = {
    "AveragePool": {1: average_pool},
    "MaxPool": {1: max_pool},
    "LpPool": {2: lp_pool},
    "MaxUnpool": {9: max_unpool},
    "GlobalAveragePool": {1: _whole(lambda x, axes: precise(x).mean(axes, keepdim=True).to(x.dtype))},
    "GlobalMaxPool": {1: _whole(lambda x, axes: x.amax(axes, keepdim=True))},
    "GlobalLpPool": {2: global_lp_pool},
}
