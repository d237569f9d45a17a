"""Shapes and layouts: Reshape, Transpose, Concat, Slice, Pad, ...."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dyncompress.models.onnx.node import Function, Functions, Node
from dyncompress.models.onnx.operators.text import with_strings
from dyncompress.models.onnx.values import integers


def from_attributes(function: Function, *names: str) -> Function:
    """The function of an operator set where some inputs of today were attributes.

    Args:
        function: takes the data and then these inputs.
        names: of the attributes, in the order of the inputs.
    """

    def older(node: Node, x: Tensor) -> Tensor:
        values = (node.get(name) for name in names)
        return function(node, x, *(None if value is None or value == [] else torch.tensor(value) for value in values))

    older.__doc__ = function.__doc__
    return older


def reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """`x` in another shape; 0 keeps an axis unless it is allowed to mean 0, and -1 is what is left."""
    wanted = integers(shape)
    kept = [axis for axis, size in enumerate(wanted) if size == 0 and not node.get("allowzero", 0)]
    sizes = [x.shape[axis] if axis in kept else size for axis, size in enumerate(wanted)]
    if -1 in sizes:
        # Axes that are kept don't count, so that this has an answer where such an axis has length 0.
        old = math.prod(size for axis, size in enumerate(x.shape) if axis not in kept)
        new = math.prod(size for axis, size in enumerate(sizes) if axis not in kept and size != -1)
        sizes[sizes.index(-1)] = old // new if new else 0
    return x.reshape(sizes)


def transpose(node: Node, x: Tensor) -> Tensor:
    """`x` with its axes in another order, reversed if none is given."""
    return x.permute(node.get("perm", list(reversed(range(x.ndim)))))


def concat(node: Node, *inputs: Tensor) -> Tensor:
    """The inputs one after the other along an axis."""
    device = next((x.device for x in inputs if x.device.type != "cpu"), inputs[0].device)  # parts of shapes may be elsewhere
    return torch.cat([x.to(device) for x in inputs], node.attributes["axis"])


def split(node: Node, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Parts of `x` along an axis; parts of the same size, the last ones smaller, if no sizes are given."""
    axis = node.get("axis", 0)
    if sizes is not None:
        return x.split(integers(sizes), axis)
    length, count = x.shape[axis], node.get("num_outputs", len(node.outputs))
    size = -(-length // count)
    bounds = [min(length, size * number) for number in range(count + 1)]
    return x.split([end - start for start, end in pairwise(bounds)], axis)


def slice_axes(node: Node, x: Tensor, starts: Tensor, ends: Tensor, *rest: Tensor | None) -> Tensor:
    """A range of each of some axes, of all from the first on if none are given; `rest` are the axes and the steps."""
    axes, steps = (None if value is None else integers(value) for value in (*rest, None, None)[:2])
    first = integers(starts)
    axes = range(len(first)) if axes is None else axes
    for axis, start, end, step in zip(axes, first, integers(ends), steps or [1] * len(first), strict=True):
        x = _sliced(x, axis, start, end, step)
    return x


def _sliced(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    """A range of one axis, backwards for a negative step."""
    size = x.shape[axis]
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    if step > 0:
        start, end = min(max(start, 0), size), min(max(end, 0), size)
        return x[(slice(None),) * (axis % x.ndim) + (slice(start, max(start, end), step),)]
    start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
    return x.index_select(axis, torch.arange(start, min(end, start), step, device=x.device))


def pad(node: Node, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    """`x` with a border of a value or of its own elements around it, or without its border where a pad is negative."""
    numbers = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in integers(axes)]
    sizes = integers(pads)
    borders = dict(zip(numbers, zip(sizes[: len(numbers)], sizes[len(numbers) :], strict=True), strict=True))
    mode = node.get("mode", "constant")
    if mode == "constant":
        return _constant_border(x, [size for axis in reversed(range(x.ndim)) for size in borders.get(axis, (0, 0))], value)
    for axis, (before, after) in borders.items():
        if before or after:
            x = _own_border(x, axis, (before, after), _BORDERS[mode])
    return x


def _constant_border(x: Tensor, pads: Sequence[int], value: Tensor | None) -> Tensor:
    """`x` with a border of one value, zero if none is given; pads as torch wants them, from the last axis on."""
    padded = torch.constant_pad_nd(x, pads)
    if value is None:
        return padded
    inside = torch.constant_pad_nd(torch.ones_like(x, dtype=torch.bool), pads)
    return torch.where(inside, padded, value.to(x).reshape(()))


def _own_border(x: Tensor, axis: int, pads: tuple[int, int], border: Callable[[Tensor, int], Tensor]) -> Tensor:
    """`x` with a border of its own elements along one axis; what negative pads remove is not used."""
    before, after = pads
    x = x.narrow(axis, max(-before, 0), x.shape[axis] + min(before, 0) + min(after, 0))
    size = x.shape[axis]
    places = torch.arange(-max(before, 0), size + max(after, 0), device=x.device)
    return x.index_select(axis, border(places, size))


def _reflected(places: Tensor, size: int) -> Tensor:
    """Places beyond the ends mirrored at the first and last element, over and over."""
    period = max(2 * (size - 1), 1)
    places = places % period
    return torch.minimum(places, period - places) if size > 1 else places


_BORDERS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "reflect": _reflected,
    "edge": lambda places, size: places.clamp(0, size - 1),
    "wrap": lambda places, size: places % size,
}


def squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """`x` without some axes of length 1, without all of them if none are given."""
    if axes is None:
        return x.squeeze()
    dropped = {axis % x.ndim for axis in integers(axes)}
    if any(x.shape[axis] != 1 for axis in dropped):
        raise ValueError(f"Squeeze of axes {sorted(dropped)}, which aren't all of length 1 in {tuple(x.shape)}")
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in dropped])


def unsqueeze(node: Node, x: Tensor, axes: Tensor) -> Tensor:
    """`x` with new axes of length 1 at places counted in the result."""
    numbers = integers(axes)
    for axis in sorted(axis % (x.ndim + len(numbers)) for axis in numbers):
        x = x.unsqueeze(axis)
    return x


def flatten(node: Node, x: Tensor) -> Tensor:
    """A matrix: the axes before one are its rows, the others its columns."""
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """`x` broadcast with a shape."""
    return x.expand(torch.broadcast_shapes(x.shape, integers(shape)))


def tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    """`x` repeated along each axis."""
    return x.repeat(integers(repeats))


def depth_to_space(node: Node, x: Tensor) -> Tensor:
    """Channels moved into blocks of the image."""
    block, (count, channels, height, width) = node.attributes["blocksize"], x.shape
    depth = channels // block**2
    if node.get("mode", "DCR") == "DCR":
        y = x.reshape(count, block, block, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(count, depth, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(count, depth, height * block, width * block)


def space_to_depth(node: Node, x: Tensor) -> Tensor:
    """Blocks of the image moved into channels."""
    block, (count, channels, height, width) = node.attributes["blocksize"], x.shape
    y = x.reshape(count, channels, height // block, block, width // block, block)
    y = y.permute(*((0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)))
    return y.reshape(count, channels * block**2, height // block, width // block)


def trilu(node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    """The upper or lower triangle of matrices, zero elsewhere."""
    diagonal = 0 if k is None else integers(k)[0]
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape[-2:])
    distance = columns - rows.unsqueeze(-1) - diagonal
    return torch.where(distance >= 0 if node.get("upper", 1) else distance <= 0, x, x.new_zeros(()))


def center_crop_pad(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """The middle of `x` in a shape, with zeros around it where `x` is smaller."""
    sizes = integers(shape)
    pads = [0] * 2 * x.ndim
    for axis, size in zip(node.get("axes", range(x.ndim)), sizes, strict=True):
        axis = axis % x.ndim
        missing = size - x.shape[axis]
        before = missing // 2 if missing > 0 else -(-missing // 2)
        pads[2 * (x.ndim - axis - 1)], pads[2 * (x.ndim - axis - 1) + 1] = before, missing - before
    return torch.constant_pad_nd(x, pads)


def reverse_sequence(node: Node, x: Tensor, lengths: Tensor) -> Tensor:
    """`x` with the first so many steps of each sample in reverse."""
    time, batch = node.get("time_axis", 0), node.get("batch_axis", 1)
    steps = torch.arange(x.shape[time], device=x.device).unsqueeze(-1)
    ends = lengths.to(x.device, torch.int64)
    order = torch.where(steps < ends, ends - 1 - steps, steps)
    y = x.movedim((time, batch), (0, 1))[order, torch.arange(x.shape[batch], device=x.device)]
    return y.movedim((0, 1), (time, batch))


def upsample(node: Node, x: Tensor, scales: Tensor) -> Tensor:
    """`x` with longer axes, by repeating elements or by interpolating between neighbours."""
    factors = scales.to("cpu", torch.float32)
    sizes = (torch.tensor(x.shape, dtype=torch.float32) * factors).floor()  # onnxruntime too does it in float32
    y = x if node.get("mode", "nearest") == "nearest" or x.dtype == torch.float64 else x.float()
    for axis, (factor, size) in enumerate(zip(factors.tolist(), integers(sizes), strict=True)):
        if factor == 1:
            continue
        places = torch.arange(size, dtype=torch.float32, device=x.device) / factor
        below = places.to(torch.int64).clamp(max=x.shape[axis] - 1)
        if node.get("mode", "nearest") == "nearest":
            y = y.index_select(axis, below)
        else:
            share = (places - below).clamp(max=1).to(y.dtype).reshape(-1, *(1,) * (x.ndim - axis - 1))
            above = (below + 1).clamp(max=x.shape[axis] - 1)
            y = y.index_select(axis, below) * (1 - share) + y.index_select(axis, above) * share
    return y.to(x.dtype)


FUNCTIONS: Functions = with_strings(
    {
        "Reshape": {5: reshape},
        "Transpose": {1: transpose},
        "Concat": {4: concat},
        "Split": {2: from_attributes(split, "split"), 13: split},
        "Slice": {1: from_attributes(slice_axes, "starts", "ends", "axes"), 10: slice_axes},
        "Pad": {2: from_attributes(pad, "pads", "value"), 11: pad},
        "Squeeze": {1: from_attributes(squeeze, "axes"), 13: squeeze},
        "Unsqueeze": {1: from_attributes(unsqueeze, "axes"), 13: unsqueeze},
        "Flatten": {1: flatten},
        "Expand": {8: expand},
        "Tile": {6: tile},
        "DepthToSpace": {1: depth_to_space},
        "SpaceToDepth": {1: space_to_depth},
        "Trilu": {14: trilu},
        "CenterCropPad": {18: center_crop_pad},
        "ReverseSequence": {10: reverse_sequence},
        "Upsample": {7: from_attributes(upsample, "scales"), 9: upsample},
    }
)
