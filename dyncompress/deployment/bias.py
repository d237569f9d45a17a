"""Biases of integer layers: int32 codes in units of the accumulator's scale."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.constants import Constants
from dyncompress.deployment.grid import Grid

LARGEST = 2**30  # largest code of a bias: half of int32, so that the products have room as well
ZERO_CHANNEL_STEPS = 2**20  # code of the bias of a channel whose weights are all zero


class StoredScale(NamedTuple):
    """The scales of a weight, and where the graph holds them.

    Attributes:
        array: `[channels]` or `[]`.
        value: of the graph, which holds `array`.
    """

    array: np.ndarray
    value: ir.Value


def scales_for_bias(
    codes: np.ndarray, axis: int | None, scale: np.ndarray, bias: np.ndarray | None, x_scale: float
) -> np.ndarray:
    """The weight's scales, changed for channels whose weights are all zero so that their biases are precise.

    The scale of such a channel is free, since its codes times any scale are zero.

    Args:
        codes: of the weight, int8.
        axis: of the channels in `codes`; None: there is one scale for all, which isn't changed.
        scale: `[channels]` or `[]`.
        bias: `[channels]`, or None for a layer without one.
        x_scale: scale of the layer's input.

    Returns:
        The scales, in the shape of `scale`.
    """
    if axis is None or bias is None:
        return scale
    all_zero = ~codes.any(axis=tuple(i for i in range(codes.ndim) if i != axis))
    fitting = np.abs(bias) / (x_scale * ZERO_CHANNEL_STEPS)
    return np.where(all_zero & (fitting > 0), fitting, scale).astype(np.float32)


def fits_accumulator(bias: np.ndarray | None, scale: np.ndarray, x_scale: float) -> bool:
    """Whether the codes of a bias, in units of `x_scale * scale`, leave room in an int32 accumulator."""
    return bias is None or bool((np.abs(bias) / (np.float64(x_scale) * scale.astype(np.float64)) < LARGEST).all())


def integer_bias(constants: Constants, bias: np.ndarray, scale: StoredScale, grid: Grid, before: ir.Node) -> ir.Value:
    """Store a bias as int32 codes, followed by a DequantizeLinear whose scale is the input's times the weight's.

    The product of the scales is computed by a Mul that onnxruntime folds at load. The result then equals bit for bit the scale
    that the fused kernel expects, and the file holds the weight's scales once.

    Args:
        constants: of the graph.
        bias: `[channels]` float32.
        scale: of the weight.
        grid: of the layer's input.
        before: the node that reads the bias.

    Returns:
        The float value that takes the bias's place among the node's inputs.
    """
    product = np.float32(grid.scale) * scale.array.astype(np.float32)
    codes = np.rint(bias.astype(np.float64) / product.astype(np.float64)).astype(np.int32)
    if constants.plain:
        steps = constants.tensor(product)
    else:
        steps = constants.node("Mul", [scale.value, constants.tensor(np.float32(grid.scale))], before)
    return constants.node("DequantizeLinear", [constants.tensor(codes), steps], before, {"axis": 0} if scale.array.ndim else None)
