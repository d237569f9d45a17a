"""Quantization to integers and 8-bit floats and back, and products and convolutions of quantized tensors."""

from __future__ import annotations

import torch
from onnx import TensorProto
from torch import Tensor

from dyncompress.models.onnx.node import Functions, Node
from dyncompress.models.onnx.operators.constants import convert
from dyncompress.models.onnx.operators.convolutions import conv
from dyncompress.models.onnx.values import dtype_of


def _spread(node: Node, parameter: Tensor, x: Tensor) -> Tensor:
    """A scale or zero point in a shape that broadcasts to `x`: one for all, one for each index of an axis, or for blocks."""
    if parameter.numel() == 1 and parameter.ndim < 2:
        return parameter.reshape(())
    axis = node.get("axis", 1) % x.ndim
    if size := node.get("block_size", 0):
        return parameter.repeat_interleave(size, axis).narrow(axis, 0, x.shape[axis])
    return parameter.reshape([-1 if other == axis else 1 for other in range(x.ndim)])


def _saturated(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Whole numbers in float64 as integers of a dtype, clipped to its range."""
    info = torch.iinfo(dtype)
    return x.clamp(info.min, info.max).to(torch.int64).to(dtype)


def quantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """`x / scale` rounded to integers, half to even, plus a zero point; or as an 8-bit float.

    The division happens in the type of the scale, or in the one that the attribute `precision` says.
    """
    dtype = dtype_of(node.get("output_dtype", 0) or TensorProto.UINT8) if zero is None else zero.dtype
    if node.get("precision", 0):
        precision = dtype_of(node.attributes["precision"])
    else:
        precision = scale.dtype if scale.is_floating_point() else torch.float32
    quotient = x.to(precision) / _spread(node, scale, x).to(precision)
    if dtype.is_floating_point:
        return convert(quotient, dtype, bool(node.get("saturate", 1)))
    whole = quotient.double().round()
    return _saturated(whole if zero is None else whole + _spread(node, zero, x).double(), dtype)


def dequantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """`(x - zero) * scale`, in the type of the scale or of the attribute `output_dtype`."""
    dtype = dtype_of(node.attributes["output_dtype"]) if node.get("output_dtype", 0) else scale.dtype
    # Differences of integers are exact in float64, but onnxruntime multiplies in float32.
    whole = x.double() if zero is None else x.double() - _spread(node, zero, x).double()
    factor = _spread(node, scale, x)
    return (whole.float() * factor).to(dtype)


def dynamic_quantize(node: Node, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`x` quantized to uint8 over its own range, which is widened to contain zero; with the scale and the zero point."""
    none = x.new_zeros(1)
    values = torch.cat([x.reshape(-1), none])
    low, high = values.amin(), values.amax()
    scale = torch.where(high == low, torch.ones_like(high), (high - low) / 255)
    zero = (-low / scale).clamp(0, 255).round()
    return _saturated((x / scale).round().double() + zero, torch.uint8), scale, zero.to(torch.uint8)


def _rows(parameter: Tensor) -> Tensor:
    """A scale or zero point of the rows of a matrix, or of all, so that it broadcasts to the matrix."""
    return parameter.reshape(-1, 1) if parameter.ndim == 1 and parameter.numel() > 1 else parameter


def _shifted(x: Tensor, zero: Tensor | None) -> Tensor:
    """`x - zero` in float64, in which sums of products of 8-bit integers are exact."""
    return x.double() if zero is None else x.double() - zero.double()


def matmul_integer(node: Node, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
    """The product of two integer matrices minus their zero points, of which rows of `a` and columns of `b` have one each."""
    a_zero = None if a_zero is None else _rows(a_zero)
    return torch.matmul(_shifted(a, a_zero), _shifted(b, b_zero)).to(torch.int64).to(torch.int32)


def conv_integer(node: Node, x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None) -> Tensor:
    """The convolution of integers minus their zero points; output channels may have one each."""
    return _convolved(node, (x, x_zero), (w, w_zero)).to(torch.int64).to(torch.int32)


_Shifted = tuple[Tensor, Tensor | None]  # integers and their zero point


def _convolved(node: Node, x: _Shifted, w: _Shifted) -> Tensor:
    """The convolution of two integer tensors minus their zero points, in float64."""
    w_zero = None if w[1] is None else _channels(w[1], w[0].ndim, 0)
    x_zero = None if x[1] is None else x[1].reshape(())
    return conv(node, _shifted(x[0], x_zero), _shifted(w[0], w_zero))


def _channels(parameter: Tensor, axes: int, axis: int) -> Tensor:
    """A scale or zero point of channels, or of all, so that it broadcasts to a tensor whose `axis` counts channels."""
    return parameter.reshape([-1 if other == axis else 1 for other in range(axes)])


def _requantized(total: Tensor, factor: Tensor, zero: Tensor) -> Tensor:
    """A sum of products times a factor, rounded half to even, plus a zero point, in the type of the zero point."""
    result = total * factor
    if zero.dtype.is_floating_point:
        return convert(result + zero.double(), zero.dtype)
    return _saturated(result.round() + zero.double(), zero.dtype)


def qlinear_matmul(node: Node, *inputs: Tensor) -> Tensor:
    """The product of two quantized matrices, quantized.

    Args:
        node: has no attributes.
        inputs: each matrix with its scale and zero point, then the scale and zero point of the output. Rows of the first
            matrix and columns of the second may have their own.
    """
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = inputs
    total = torch.matmul(_shifted(a, _rows(a_zero)), _shifted(b, b_zero))
    return _requantized(total, _rows(a_scale.double()) * b_scale.double() / y_scale.double(), y_zero)


def qlinear_conv(node: Node, *inputs: Tensor) -> Tensor:
    """The convolution of quantized tensors, quantized.

    Args:
        node: has the attributes of a convolution.
        inputs: the tensor and the filter, each with its scale and zero point, the scale and zero point of the output, and
            optionally a bias, whose scale is the product of the first two. Filters may have their own scale and zero point.
    """
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, *bias = inputs
    total = _convolved(node, (x, x_zero), (w, w_zero))
    if bias and bias[0] is not None:
        total = total + _channels(bias[0].double(), total.ndim, 1)
    factor = x_scale.double().reshape(()) * _channels(w_scale.double(), total.ndim, 1) / y_scale.double().reshape(())
    return _requantized(total, factor, y_zero.reshape(()))


FUNCTIONS: Functions = {
    "QuantizeLinear": {10: quantize},
    "DequantizeLinear": {10: dequantize},
    "DynamicQuantizeLinear": {11: dynamic_quantize},
    "MatMulInteger": {10: matmul_integer},
    "ConvInteger": {10: conv_integer},
    "QLinearMatMul": {10: qlinear_matmul},
    "QLinearConv": {10: qlinear_conv},
}
