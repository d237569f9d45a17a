"""Weights of frameworks that count channels last, in the layout of this library."""

from __future__ import annotations

import numpy as np


def outputs_first(kernel: np.ndarray) -> np.ndarray:
    """`(*kernel, in / groups, out)` -> `(out, in / groups, *kernel)`.

    Example:
        >>> outputs_first(np.zeros((3, 5, 4, 8))).shape
        (8, 4, 3, 5)
    """
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def transposed_outputs_first(kernel: np.ndarray) -> np.ndarray:
    """`(*kernel, out, in)` of a transposed convolution -> `(out, in, *kernel)`.

    Example:
        >>> transposed_outputs_first(np.zeros((3, 5, 4, 8))).shape
        (4, 8, 3, 5)
    """
    return np.moveaxis(kernel, (-2, -1), (0, 1))


def depthwise_outputs_first(kernel: np.ndarray) -> np.ndarray:
    """`(*kernel, in, multiplier)` of a depthwise convolution -> `(in * multiplier, 1, *kernel)`.

    Example:
        >>> depthwise_outputs_first(np.zeros((3, 5, 4, 2))).shape
        (8, 1, 3, 5)
    """
    *size, inputs, multiplier = kernel.shape
    return np.moveaxis(kernel, (-2, -1), (0, 1)).reshape(inputs * multiplier, 1, *size)
