"""The integer grid of an activation: scale and zero point for a range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.types import Target


@dataclass(frozen=True)
class Grid:
    """The values (code - zero_point) * scale, for all codes of `dtype`.

    Attributes:
        scale: float32, positive.
        zero_point: the code of zero.
        dtype: `uint8` or `int8`.
    """

    scale: np.float32
    zero_point: int
    dtype: str

    @property
    def lowest(self) -> float:
        """The smallest value on the grid."""
        return (int(np.iinfo(self.dtype).min) - self.zero_point) * float(self.scale)

    @property
    def highest(self) -> float:
        """The largest value on the grid."""
        return (int(np.iinfo(self.dtype).max) - self.zero_point) * float(self.scale)

    def codes(self, values: np.ndarray) -> np.ndarray:
        """The nearest codes of float values, half to even, as QuantizeLinear computes them; the shape of `values`."""
        info = np.iinfo(self.dtype)
        rounded = np.rint(np.asarray(values, np.float32) / self.scale) + self.zero_point
        return np.clip(rounded, info.min, info.max).astype(self.dtype)


def activation_grid(low: float, high: float, target: Target, value: str = "") -> Grid:
    """The grid that covers `[low, high]` and zero.

    Zero always has a code of its own; otherwise padding and Relu would be inexact.

    Args:
        low: smallest value of the activation.
        high: largest value of the activation.
        target: its activation dtype, whether grids are symmetric, and whether scales are powers of two.
        value: name of the activation, for the error message.

    Returns:
        The grid.

    Raises:
        InvalidRequest: the range isn't finite, or low > high.

    Example:
        >>> grid = activation_grid(0.0, 2.55, Target("t", "", "schema"))
        >>> grid.zero_point, grid.codes(np.array([0.0, 0.011, 9.0])).tolist()
        (0, [0, 1, 255])
    """
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise InvalidRequest(f"activation '{value}' has the range [{low}, {high}]; calibrate with finite examples.")
    low, high = min(low, 0.0), max(high, 0.0)
    info = np.iinfo(target.activation_dtype)
    middle = (int(info.min) + int(info.max) + 1) // 2
    if target.activation_symmetric:
        step = max(-low, high) / (int(info.max) - middle)
    else:
        step = (high - low) / (int(info.max) - int(info.min))
    step = max(step, 1e-8)  # a value that was always zero still needs a positive scale
    if target.power_of_two_scales:
        step = 2.0 ** np.ceil(np.log2(step))
    scale = np.float32(step)
    zero = middle if target.activation_symmetric else int(np.clip(np.rint(info.min - low / float(scale)), info.min, info.max))
    return Grid(scale, zero, target.activation_dtype)
