"""Ranges of activations to the scale and zero point of an 8-bit integer."""

from __future__ import annotations

import math

import torch

from dyncompress.errors import InvalidRequest

_TYPES = {"uint8": (0, 255), "int8": (-128, 127)}


def activation_scale(
    low: float, high: float, *, dtype: str = "uint8", symmetric: bool = False, power_of_two: bool = False
) -> tuple[float, int]:
    """Scale and zero point at which the range `[low, high]`, widened to hold 0, fills the integers of `dtype`.

    x is stored as clamp(round(x / scale) + zero_point). Zero is exact, since padding and ReLU produce it. A range of
    nothing but zero gets scale 1.

    Example:
        >>> activation_scale(0.0, 255.0)
        (1.0, 0)
        >>> activation_scale(-127.0, 3.0, dtype="uint8", symmetric=True)
        (1.0, 128)

    Args:
        low: smallest value to represent.
        high: largest value to represent.
        dtype: `uint8` or `int8`.
        symmetric: the zero point is the middle (128 or 0) and 127 steps lie on each side.
        power_of_two: the scale is the next power of two up.

    Returns:
        Scale, a float exactly representable in float32, and the zero point.

    Raises:
        InvalidRequest: the range isn't finite or is upside down, or the type is another.
    """
    if dtype not in _TYPES:
        raise InvalidRequest(f"activation type '{dtype}' has no 8-bit grid; use uint8 or int8.")
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise InvalidRequest(f"activation range [{low}, {high}]; it takes two finite ends in ascending order.")
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    first, last = _TYPES[dtype]
    scale = max(-low, high) / 127 if symmetric else high / 255 - low / 255
    if scale == 0:
        return 1.0, (first + 128 if symmetric else first)
    if power_of_two:
        scale = 2.0 ** math.ceil(math.log2(scale))
    scale = max(torch.tensor(scale, dtype=torch.float32).item(), torch.finfo(torch.float32).tiny)
    if symmetric:
        return scale, first + 128
    return scale, min(max(first + round(-low / scale), first), last)
