"""Activation functions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from dyncompress.models.onnx.node import Function, Functions, Node
from dyncompress.models.onnx.operators.widening import widely


def _scaled(function: Callable[[Tensor, float], Tensor], alpha: float) -> Function:
    """An operator of one tensor and the attribute `alpha`, whose default this is."""
    return lambda node, x: function(x, node.get("alpha", alpha))


def gelu(node: Node, x: Tensor) -> Tensor:
    """GELU, exact or approximated by tanh."""
    return functional.gelu(x, approximate=node.get("approximate", "none"))


def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    """A straight line, clipped to 0 ... 1."""
    if abs(6 * node.get("alpha", 0.2) - 1) < 1e-6 and node.get("beta", 0.5) == 0.5:
        return functional.hardsigmoid(x)  # one pass instead of three
    return (node.get("alpha", 0.2) * x + node.get("beta", 0.5)).clamp(0, 1)


def prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    """`x` where it isn't negative, otherwise `slope * x`."""
    if not x.dtype.is_signed:
        return x
    return torch.where(x < 0, slope * x, x)


def selu(node: Node, x: Tensor) -> Tensor:
    """A scaled ELU."""
    return node.get("gamma", 1.05070102214813232421875) * functional.elu(x, node.get("alpha", 1.67326319217681884765625))


def shrink(node: Node, x: Tensor) -> Tensor:
    """Zero near zero, and moved towards zero by `bias` elsewhere."""
    bound, bias = node.get("lambd", 0.5), node.get("bias", 0.0)
    numbers = x if x.is_floating_point() else x.double()
    moved = torch.where(numbers < -bound, numbers + bias, torch.where(numbers > bound, numbers - bias, 0))
    return moved.to(x.dtype)


def swiglu(node: Node, gate: Tensor, x: Tensor) -> Tensor:
    """`x`, gated by Swish."""
    return _swish(gate, node.get("alpha", 1.0)) * x


def _swish(x: Tensor, alpha: float) -> Tensor:
    """A smooth ReLU; `alpha` is its sharpness."""
    return x * torch.sigmoid(alpha * x)


def _threshold(x: Tensor, alpha: float) -> Tensor:
    """`x` above the threshold, otherwise zero."""
    return torch.where(x > alpha, x, 0)


def _hardmax(x: Tensor, axis: int) -> Tensor:
    """One at the first maximum along an axis, zero elsewhere."""
    if not x.numel():
        return x
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


def _along(function: Callable[[Tensor, int], Tensor]) -> Function:
    """An operator along one axis, the last by default."""
    return lambda node, x: function(x, node.get("axis", -1))


def _flattened(function: Callable[[Tensor, int], Tensor]) -> Function:
    """An operator along all axes from one on, which older files say: a matrix, whose rows end there."""

    def computed(node: Node, x: Tensor) -> Tensor:
        axis = node.get("axis", 1)
        return function(x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:])), 1).reshape(x.shape)

    return computed


FUNCTIONS: Functions = {
    "Celu": {12: _scaled(torch.celu, 1.0)},
    "Elu": {6: _scaled(functional.elu, 1.0)},
    "Gelu": {20: gelu},
    "HardSigmoid": {6: hard_sigmoid},
    "HardSwish": {14: lambda node, x: functional.hardswish(x)},
    "Hardmax": {1: _flattened(_hardmax), 13: _along(_hardmax)},
    "LeakyRelu": {6: _scaled(functional.leaky_relu, 0.01)},
    "LogSoftmax": {1: _flattened(torch.log_softmax), 13: _along(torch.log_softmax)},
    "Softmax": {1: _flattened(torch.softmax), 13: _along(torch.softmax)},
    "Mish": {18: lambda node, x: functional.mish(x)},
    "PRelu": {7: prelu},
    "Relu": {6: lambda node, x: widely(torch.relu, x)},
    "Selu": {6: selu},
    "Shrink": {9: shrink},
    "Sigmoid": {6: lambda node, x: torch.sigmoid(x)},
    # Torch returns x itself above the threshold; from 40 on, that is exact in float64 too.
    "Softplus": {1: lambda node, x: functional.softplus(x, threshold=40)},
    "Softsign": {1: lambda node, x: functional.softsign(x)},
    "Swish": {24: _scaled(_swish, 1.0)},
    "SwiGLU": {28: swiglu},
    "ThresholdedRelu": {10: _scaled(_threshold, 1.0)},
}
