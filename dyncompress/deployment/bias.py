"""Biases of integer layers: int32, on the grid that the accumulator has."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.constants import Constants
from dyncompress.deployment.grid import Grid

LARGEST = 2**30  # half of int32: the products still have room
DEAD_STEPS = 2**20  # a channel without weights has no scale of its own: its bias gets this many steps


def revived(codes: np.ndarray, axis: int | None, scale: np.ndarray, bias: np.ndarray | None, x_scale: float) -> np.ndarray:
    """Scales in which the bias of an all-zero channel is precise (codes times scale stay zero).

    Args:
        codes: int8.
        axis: of the channels; None: one scale for all, which stays.
        scale: `[channels]` or `[]`.
        bias: `[channels]` or None.
        x_scale: of the input.

    Returns:
        Scales, the same shape.
    """
    if axis is None or bias is None:
        return scale
    dead = ~codes.any(axis=tuple(i for i in range(codes.ndim) if i != axis))
    wanted = np.abs(bias) / (x_scale * DEAD_STEPS)
    return np.where(dead & (wanted > 0), wanted, scale).astype(np.float32)


def fits(bias: np.ndarray | None, scale: np.ndarray, x_scale: float) -> bool:
    """Whether the bias, in units of `x_scale * scale`, is within an int32 accumulator."""
    return bias is None or bool((np.abs(bias) / (np.float64(x_scale) * scale.astype(np.float64)) < LARGEST).all())


def integer_bias(
    constants: Constants, bias: np.ndarray, scale: np.ndarray, grid: Grid, stored_scale: ir.Value, before: ir.Node
) -> ir.Value:
    """bias -> int32 initializer -> DequantizeLinear with `x_scale * w_scale`.

    The product of scales is computed by a Mul that onnxruntime folds at load: it then equals, bit for bit, what the fused
    kernel compares it with, and the file holds the scales once.

    Args:
        constants: of the graph.
        bias: `[channels]` float32.
        scale: `[channels]` or `[]`, of the weight.
        grid: of the input.
        stored_scale: the weight's scales as they lie in the graph.
        before: the node that needs the bias.

    Returns:
        The float value that the node reads.
    """
    product = np.float32(grid.scale) * scale.astype(np.float32)
    codes = np.rint(bias.astype(np.float64) / product.astype(np.float64)).astype(np.int32)
    if constants.plain:
        steps = constants.tensor(product)
    else:
        steps = constants.node("Mul", [stored_scale, constants.tensor(np.float32(grid.scale))], before)
    return constants.node("DequantizeLinear", [constants.tensor(codes), steps], before, {"axis": 0} if scale.ndim else None)
