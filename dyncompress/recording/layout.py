"""Convert weights of frameworks that have channels last into this library's layout `(out, in / groups, *kernel)`."""

from __future__ import annotations

import numpy as np


def outputs_first(kernel: np.ndarray) -> np.ndarray:
    """Convert a weight `(*kernel, in / groups, out)` to `(out, in / groups, *kernel)`.

    Example:
        >>> outputs_first(np.zeros((3, 5, 4, 8))).shape
        (8, 4, 3, 5)
    """
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def transposed_outputs_first(kernel: np.ndarray) -> np.ndarray:
    """Convert the weight `(*kernel, out, in)` of a transposed convolution to `(out, in, *kernel)`.

    Example:
        >>> transposed_outputs_first(np.zeros((3, 5, 4, 8))).shape
        (4, 8, 3, 5)
    """
    return np.moveaxis(kernel, (-2, -1), (0, 1))


def depthwise_outputs_first(kernel: np.ndarray) -> np.ndarray:
    """Convert the weight `(*kernel, in, multiplier)` of a depthwise convolution to `(in * multiplier, 1, *kernel)`.

    Example:
        >>> depthwise_outputs_first(np.zeros((3, 5, 4, 2))).shape
        (8, 1, 3, 5)
    """
    *size, inputs, multiplier = kernel.shape
    return np.moveaxis(kernel, (-2, -1), (0, 1)).reshape(inputs * multiplier, 1, *size)
