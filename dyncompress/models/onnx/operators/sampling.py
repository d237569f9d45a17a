"""Values of an image between its pixels: GridSample, AffineGrid, and what DeformConv shares with them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dyncompress.models.onnx.node import Functions, Node
from dyncompress.models.onnx.values import integers

# Per axis: the pixels that a place reads and their weights.
Taps = list[tuple[Tensor, Tensor]]
_CUBIC = -0.75


def nearest_taps(position: Tensor) -> Taps:
    """The nearest pixel; half-way it is the even one."""
    return [(position.round(), torch.ones_like(position))]


def linear_taps(position: Tensor) -> Taps:
    """The two pixels around a place."""
    low = position.detach().floor()
    part = position - low
    return [(low, 1 - part), (low + 1, part)]


def cubic_taps(position: Tensor) -> Taps:
    """The four pixels around a place, of Keys' cubic convolution."""
    low = position.detach().floor()
    part = position - low
    return [(low + shift, cubic_weight(part - shift, _CUBIC)) for shift in (-1, 0, 1, 2)]


def cubic_weight(distance: Tensor, a: float) -> Tensor:
    """Keys' kernel, which ends at a distance of 2."""
    x = distance.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def sample(x: Tensor, taps: Sequence[Taps], padding: str, align_corners: bool = False) -> Tensor:
    """Interpolate an image at given places, with any number of axes.

    Args:
        x: batch x channels x axes.
        taps: of every axis; pixels and weights are batch x places.
        padding: "zeros", "border" or "reflection": what lies outside the image.
        align_corners: whether the border that reflects is the centre of the last pixel, not its end.

    Returns:
        batch x channels x places.
    """
    sizes, flat = x.shape[2:], x.flatten(2)
    placed = [
        [_inside(pixel, weight, size, padding, align_corners) for pixel, weight in axis]
        for axis, size in zip(taps, sizes, strict=True)
    ]
    places = taps[0][0][0].shape[1]
    total = torch.zeros(*x.shape[:2], places, dtype=x.dtype, device=x.device)
    if flat.shape[2] == 0:
        return total
    for corner in itertools.product(*placed):
        index, weight = torch.zeros_like(corner[0][0]), torch.ones_like(corner[0][1])
        for (pixel, part), size in zip(corner, sizes, strict=True):
            index, weight = index * size + pixel, weight * part
        values = flat.gather(2, index[:, None].expand(-1, x.shape[1], -1))
        total = total + torch.where(weight[:, None] == 0, 0, values * weight[:, None])
    return total


def _inside(pixel: Tensor, weight: Tensor, size: int, padding: str, align_corners: bool) -> tuple[Tensor, Tensor]:
    """The pixel of the image that is read instead of one that may lie outside, and its weight."""
    if padding == "zeros":
        weight = torch.where((pixel >= 0) & (pixel < size), weight, torch.zeros_like(weight))
    if padding == "reflection":
        pixel = _reflected(pixel, size, align_corners)
    return pixel.detach().nan_to_num(-1).clamp(0, max(size - 1, 0)).to(torch.int64), weight


def _reflected(position: Tensor, size: int, align_corners: bool) -> Tensor:
    """A place mirrored at the borders until it lies between them."""
    low, span = (0.0, size - 1.0) if align_corners else (-0.5, float(size))
    if span <= 0:
        return torch.zeros_like(position)
    away = (position - low).abs()
    turns, rest = (away / span).detach().floor(), away.remainder(span)
    return low + torch.where(turns % 2 == 0, rest, span - rest)


_TAPS = {
    "nearest": nearest_taps,
    "linear": linear_taps,
    "bilinear": linear_taps,
    "cubic": cubic_taps,
    "bicubic": cubic_taps,
}


def grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    """Values of `x` at the places of `grid`, which go from -1 to 1 and name the last axis first."""
    mode, padding = str(node.get("mode", "linear")), node.get("padding_mode", "zeros")
    align = bool(node.get("align_corners", 0))
    axes, exact = x.ndim - 2, x.is_floating_point() or x.is_complex()
    wide = torch.promote_types(x.dtype if exact else grid.dtype, torch.float32)
    data, grid = x.to(wide), grid.to(wide.to_real())
    short = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    # Torch reflects before it rounds, which differs half-way between two pixels.
    same = short != "nearest" or padding != "reflection"
    if same and not x.is_complex() and axes in ((2,) if short == "bicubic" else (2, 3)) and x.numel() and grid.numel():
        return functional.grid_sample(data, grid, short, padding, align).to(x.dtype)
    sizes, taps = x.shape[2:], []
    for axis, size in enumerate(sizes):
        place = grid[..., axes - 1 - axis].reshape(grid.shape[0], math.prod(grid.shape[1:-1]))
        place = (place + 1) / 2 * (size - 1) if align else ((place + 1) * size - 1) / 2
        if short == "nearest":
            place = place.round()
        if padding == "border" and short != "bicubic":  # a cubic place may lie outside; its taps don't
            place = place.clamp(0, max(size - 1, 0))
        elif padding == "reflection":
            place = _reflected(place, size, align)
        taps.append(_TAPS[mode](place))
    return sample(data, taps, padding, align).reshape(*x.shape[:2], *grid.shape[1:-1]).to(x.dtype)


def affine_grid(node: Node, theta: Tensor, size: Tensor) -> Tensor:
    """The places that affine maps send an even grid to."""
    wide = torch.promote_types(theta.dtype, torch.float32)
    return functional.affine_grid(theta.to(wide), integers(size), bool(node.get("align_corners", 0))).to(theta.dtype)


FUNCTIONS: Functions = {
    "GridSample": {16: grid_sample},
    "AffineGrid": {20: affine_grid},
}
