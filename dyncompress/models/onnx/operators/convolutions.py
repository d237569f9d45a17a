"""Convolutions over one to three axes: Conv, ConvTranspose, DeformConv, Col2Im, CausalConvWithState."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dyncompress.models.onnx.node import Functions, Node, NoTorchFunctionError
from dyncompress.models.onnx.operators.sampling import linear_taps, sample
from dyncompress.models.onnx.values import integers

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
_NARROW = (torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.bool)


def explicit_pads(node: Node, spatial_shape: Sequence[int], kernel_shape: Sequence[int]) -> list[int]:
    """The pads of a convolution or pooling, also where `auto_pad` leaves them to the shape of the input.

    Args:
        node: its `auto_pad`, `pads`, `strides` and `dilations` count.
        spatial_shape: of the input.
        kernel_shape: without dilation.

    Returns:
        The pads before the axes and then those after them.

    Example:
        >>> explicit_pads(Node("", "Conv", "", 11, {"auto_pad": "SAME_UPPER"}, ()), [5], [4])
        [1, 2]
    """
    axes = len(spatial_shape)
    mode = node.get("auto_pad", "NOTSET")
    if mode in ("", "NOTSET"):
        return list(node.get("pads") or [0] * (2 * axes))
    if mode == "VALID":
        return [0] * (2 * axes)
    strides, dilations = per_axis(node, "strides", axes), per_axis(node, "dilations", axes)
    totals = [
        max(0, (math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
        for size, kernel, stride, dilation in zip(spatial_shape, kernel_shape, strides, dilations, strict=True)
    ]
    return _halves(totals, more_after=mode == "SAME_UPPER")


def per_axis(node: Node, name: str, axes: int) -> list[int]:
    """An attribute of one number per spatial axis, which is 1 by default."""
    return list(node.get(name) or [1] * axes)


def paired(pads: Sequence[int]) -> list[int]:
    """ONNX's pads in the order of `torch.nn.functional.pad`, which goes from the last axis to the first.

    Example:
        >>> paired([1, 2, 3, 4])
        [2, 4, 1, 3]
    """
    axes = len(pads) // 2
    return [pads[axis + side] for axis in reversed(range(axes)) for side in (0, axes)]


def _halves(totals: Sequence[int], more_after: bool) -> list[int]:
    """Pads that split the totals over both sides; the odd one goes after or before the axis."""
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return small + large if more_after else large + small


def _of_axes(table: dict[int, Callable[..., Tensor]], axes: int) -> Callable[..., Tensor]:
    """Torch's function for a number of spatial axes."""
    if axes not in table:
        raise NoTorchFunctionError(f"torch has no convolution over {axes} axes")
    return table[axes]


def conv(node: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """A convolution, with groups."""
    axes = x.ndim - 2
    function = _of_axes(_CONVOLUTIONS, axes)
    pads = explicit_pads(node, x.shape[2:], w.shape[2:])
    symmetric = pads[:axes] == pads[axes:]
    if not symmetric:
        x = functional.pad(x, paired(pads))
    strides, dilations = per_axis(node, "strides", axes), per_axis(node, "dilations", axes)
    return function(x, w, b, strides, pads[:axes] if symmetric else 0, dilations, node.get("group", 1))


def conv_transpose(node: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """A transposed convolution, with groups."""
    axes = x.ndim - 2
    function = _of_axes(_TRANSPOSED, axes)
    strides, dilations = per_axis(node, "strides", axes), per_axis(node, "dilations", axes)
    extra = list(node.get("output_padding") or [0] * axes)
    whole = [
        stride * (size - 1) + (kernel - 1) * dilation + 1 + more
        for size, kernel, stride, dilation, more in zip(x.shape[2:], w.shape[2:], strides, dilations, extra, strict=True)
    ]
    pads = _transposed_pads(node, x.shape[2:], whole)
    group = node.get("group", 1)
    if pads[:axes] == pads[axes:] and not any(extra) and min(pads) >= 0:
        return function(x, w, b, strides, pads[:axes], 0, group, dilations)
    y = function(x, w, None, strides, 0, 0, group, dilations)
    y = functional.pad(
        y, paired([-pad for pad in pads[:axes]] + [more - pad for more, pad in zip(extra, pads[axes:], strict=True)])
    )
    return y if b is None else y + b.reshape(-1, *[1] * axes)


def _transposed_pads(node: Node, spatial_shape: Sequence[int], whole: Sequence[int]) -> list[int]:
    """What is cut off the `whole` output of a transposed convolution; negative where zeros are added after it."""
    mode, output_shape = node.get("auto_pad", "NOTSET"), node.get("output_shape")
    axes = len(spatial_shape)
    if not output_shape and mode not in ("SAME_UPPER", "SAME_LOWER"):
        return list(node.get("pads") or [0] * (2 * axes)) if mode != "VALID" else [0] * (2 * axes)
    if output_shape:
        wanted = list(output_shape)[-axes:]
    else:
        wanted = [size * stride for size, stride in zip(spatial_shape, per_axis(node, "strides", axes), strict=True)]
    totals = [size - out for size, out in zip(whole, wanted, strict=True)]
    pads = _halves([max(0, total) for total in totals], more_after=mode == "SAME_UPPER")
    return pads[:axes] + [pad + min(0, total) for pad, total in zip(pads[axes:], totals, strict=True)]


def deform_conv(node: Node, x: Tensor, w: Tensor, offset: Tensor, *optional: Tensor | None) -> Tensor:
    """A convolution whose taps lie off the grid by offsets, and are weighted by a mask.

    Args:
        node: the node.
        x: the input.
        w: the weights.
        offset: one number per batch, group of offsets, tap, axis and place of the output.
        optional: the bias and the mask, either of which may be absent.
    """
    b, mask = (*optional, None, None)[:2]
    axes, (batch, channels), out = x.ndim - 2, x.shape[:2], offset.shape[2:]
    groups, kernel = node.get("offset_group", 1), w.shape[2:]
    taps = math.prod(kernel)
    pads = list(node.get("pads") or [0] * (2 * axes))
    strides, dilations = per_axis(node, "strides", axes), per_axis(node, "dilations", axes)
    wide = torch.promote_types(x.dtype, torch.float32)

    def grid(sizes: Sequence[int], steps: Sequence[int], starts: Sequence[int]) -> Tensor:
        """The places `start + step * n` on every axis, for all combinations: axes x combinations."""
        each = [torch.arange(n, device=x.device) * s + a for n, s, a in zip(sizes, steps, starts, strict=True)]
        return torch.stack([place.reshape(-1) for place in torch.meshgrid(*each, indexing="ij")])

    places = grid(out, strides, [-pad for pad in pads[:axes]])[None, :] + grid(kernel, dilations, [0] * axes).T[:, :, None]
    positions = offset.to(wide).reshape(batch * groups, taps, axes, math.prod(out)) + places
    values = sample(
        x.to(wide).reshape(batch * groups, channels // groups, *x.shape[2:]),
        [linear_taps(position.flatten(1)) for position in positions.unbind(2)],
        "zeros",
    ).reshape(batch, groups, channels // groups, taps, math.prod(out))
    if mask is not None:
        values = values * mask.to(wide).reshape(batch, groups, 1, taps, math.prod(out))
    parts = node.get("group", 1)
    columns = values.reshape(batch, parts, channels // parts * taps, math.prod(out))
    y = (w.to(wide).reshape(parts, w.shape[0] // parts, -1) @ columns).reshape(batch, w.shape[0], *out)
    return (y if b is None else y + b.to(wide).reshape(-1, *[1] * axes)).to(x.dtype)


def col2im(node: Node, x: Tensor, image_shape: Tensor, block_shape: Tensor) -> Tensor:
    """An image that is the sum of blocks; any number of axes."""
    image, block = integers(image_shape), integers(block_shape)
    axes = len(image)
    strides, dilations = per_axis(node, "strides", axes), per_axis(node, "dilations", axes)
    pads = list(node.get("pads") or [0] * (2 * axes))
    padded = [size + pads[axis] + pads[axis + axes] for axis, size in enumerate(image)]
    index = torch.zeros([1] * (2 * axes), dtype=torch.int64)
    for axis, (size, kernel, stride, dilation) in enumerate(zip(padded, block, strides, dilations, strict=True)):
        count = (size - (kernel - 1) * dilation - 1) // stride + 1
        place = torch.arange(kernel)[:, None] * dilation + torch.arange(count) * stride
        shape = [1] * (2 * axes)
        shape[axis], shape[axis + axes] = kernel, count
        index = index + place.reshape(shape) * math.prod(padded[axis + 1 :])
    data = x.to(torch.int64) if x.dtype in _NARROW else x  # torch adds few types of integers by an index
    data = data.reshape(x.shape[0], x.shape[1] // math.prod(block), index.numel())
    y = data.new_zeros(*data.shape[:2], math.prod(padded)).index_add(2, index.reshape(-1).to(x.device), data)
    return functional.pad(y.reshape(*data.shape[:2], *padded), paired([-pad for pad in pads])).to(x.dtype)


def causal_conv_with_state(
    node: Node, x: Tensor, w: Tensor, b: Tensor | None = None, past_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A convolution of every channel with its own past, and the past for the next call."""
    past = w.shape[2] - 1
    before = x.new_zeros(*x.shape[:2], past) if past_state is None else past_state.to(x.dtype)
    padded = torch.cat([before, x], 2)
    y = functional.conv1d(padded, w, b, groups=x.shape[1])
    if node.get("activation", "none") in ("silu", "swish"):
        y = functional.silu(y.to(torch.promote_types(y.dtype, torch.float32))).to(x.dtype)
    return y, padded[:, :, padded.shape[2] - past :]


FUNCTIONS: Functions = {
    "Conv": {1: conv},
    "ConvTranspose": {1: conv_transpose},
    "DeformConv": {19: deform_conv},
    "Col2Im": {18: col2im},
    "CausalConvWithState": {27: causal_conv_with_state},
}
