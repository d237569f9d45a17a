"""Arithmetic, comparisons, logic, bits and rounding, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from dyncompress.models.onnx.node import Function, Functions, Node, NoTorchFunctionError, Value
from dyncompress.models.onnx.operators.widening import ordered, orderly, unordered, wide, widely
from dyncompress.models.onnx.values import dtype_of


def _each(function: Callable[..., Tensor]) -> Function:
    """An operator that is a torch function of all its inputs, whatever their dtype."""
    return lambda node, *inputs: function(*inputs)


def _wide(function: Callable[..., Tensor]) -> Function:
    """An operator that is a torch function of tensors of one dtype, also of unsigned integers."""
    return lambda node, *inputs: widely(function, *inputs)


def _comparison(function: Callable[..., Tensor]) -> Function:
    """An operator that compares two tensors by the order of their numbers."""
    return lambda node, a, b: function(ordered(a), ordered(b))


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """An operator that joins any number of tensors pair by pair, choosing by their order."""
    return lambda node, *inputs: reduce(lambda a, b: orderly(function, a, b), inputs)


def absolute(node: Node, x: Tensor) -> Tensor:
    """The absolute value; unsigned numbers are their own."""
    return x if wide(x) is not x else torch.abs(x)


def sign(node: Node, x: Tensor) -> Tensor:
    """-1, 0 or 1; what is no number stays so."""
    if x.is_floating_point():
        return torch.where(x.isnan(), x, torch.sign(x))
    return (x != 0).to(x.dtype) if wide(x) is not x else torch.sign(x)


def _unsigned_quotient(a: Tensor, b: Tensor) -> Tensor:
    """The quotient of two uint64, given and returned as int64 with the same bits.

    Half the dividend fits an int64; doubling that quotient leaves an error of at most one, which the remainder shows.
    A divisor with the highest bit set goes into the dividend once at most.
    """
    half = torch.div((a >> 1) & torch.iinfo(torch.int64).max, torch.where(b < 0, 1, b), rounding_mode="floor") << 1
    low = torch.iinfo(torch.int64).min
    small = half + (a - half * b + low >= b + low)
    return torch.where(b < 0, (a + low >= b + low).to(a.dtype), small)


def divide(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """The quotient; of integers, truncated towards zero."""
    if a.is_floating_point():
        return a / b
    if a.dtype == torch.uint64:
        return widely(_unsigned_quotient, a, b)
    return widely(lambda a, b: torch.div(a, b, rounding_mode="trunc"), a, b)


def modulo(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """The remainder with the sign of the divisor, or of the dividend with `fmod`."""
    if a.dtype == torch.uint64:
        return widely(lambda a, b: a - _unsigned_quotient(a, b) * b, a, b)
    if node.get("fmod", 0):
        return widely(torch.fmod, a, b)
    rest = widely(torch.remainder, a, b)
    # Torch's zero has the sign of the dividend; ONNX's that of the divisor.
    return torch.where(rest == 0, torch.copysign(rest, b), rest) if a.is_floating_point() else rest


def power(node: Node, base: Tensor, exponent: Tensor) -> Tensor:
    """`base` to the power of `exponent`, which may have another dtype, in the dtype of `base`."""
    exponent = exponent.double() if exponent.dtype == torch.uint64 else wide(exponent)
    if exponent.is_floating_point() and not base.is_floating_point():
        return torch.pow(base.double(), exponent).to(base.dtype)
    return torch.pow(base, exponent).to(base.dtype)


def mean(node: Node, *inputs: Tensor) -> Tensor:
    """The mean of any number of tensors."""
    return reduce(torch.add, inputs) / len(inputs)


def equal(node: Node, a: Value, b: Value) -> Tensor:
    """Where two tensors are equal; strings too."""
    if isinstance(a, np.ndarray):
        return torch.from_numpy(np.asarray(a == b, dtype=bool))
    assert isinstance(a, Tensor) and isinstance(b, Tensor)
    return wide(a) == wide(b)


def where(node: Node, condition: Tensor, a: Value, b: Value) -> Value:
    """Elements of `a` where the condition holds, otherwise of `b`."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.where(condition.numpy(), a, b)
    assert isinstance(a, Tensor) and isinstance(b, Tensor)
    return torch.where(condition, a, b)


def _eight_bits_as_float(x: Tensor) -> Tensor:
    """8-bit floats, for which torch has no predicates, as float32."""
    return x.float() if x.dtype.itemsize == 1 else x


def is_infinite(node: Node, x: Tensor) -> Tensor:
    """Where numbers are infinite, of the signs that the attributes name."""
    x, nowhere = _eight_bits_as_float(x), torch.zeros_like(x, dtype=torch.bool)
    positive = x == math.inf if node.get("detect_positive", 1) else nowhere
    return positive | (x == -math.inf) if node.get("detect_negative", 1) else positive


def is_nan(node: Node, x: Tensor) -> Tensor:
    """Where elements aren't numbers."""
    return torch.isnan(_eight_bits_as_float(x))


def bit_shift(node: Node, x: Tensor, amount: Tensor) -> Tensor:
    """Bits shifted; past the width, and by negative amounts, only the sign is left, or nothing."""
    width = 8 * x.dtype.itemsize
    value, amount = wide(x).long(), wide(amount).long()
    outside = (amount < 0) | (amount >= width)
    amount = torch.where(outside, 0, amount)
    if node.get("direction") == "LEFT":
        return torch.where(outside, 0, value << amount).to(x.dtype)
    if x.dtype == torch.uint64:
        # An int64 would bring in copies of the highest bit, so the first shift by one takes them off.
        logical = ((value >> 1) & torch.iinfo(torch.int64).max) >> (amount - 1).clamp(min=0)
        return torch.where(outside, 0, torch.where(amount == 0, value, logical)).to(x.dtype)
    return torch.where(outside, value >> (width - 1 if x.dtype.is_signed else 62), value >> amount).to(x.dtype)


def bit_cast(node: Node, x: Tensor) -> Tensor:
    """The same bits as another element type of the same width."""
    dtype = dtype_of(node.attributes["to"])
    if dtype.itemsize != x.dtype.itemsize:
        raise NoTorchFunctionError(f"BitCast keeps the width, but {x.dtype} and {dtype} differ in theirs")
    return x.view(dtype)


def clip_to_attributes(node: Node, x: Tensor) -> Tensor:
    """Numbers clipped to the attributes `min` and `max`, which are the finite float32 range by default."""
    info, widest = torch.finfo(x.dtype), torch.finfo(torch.float32).max
    return x.clamp(max(node.get("min", -widest), info.min), min(node.get("max", widest), info.max))


def clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Numbers clipped to bounds, the finite range where one is absent; the upper bound wins where they cross."""
    if x.is_floating_point():
        info = torch.finfo(x.dtype)
        low = x.new_tensor(info.min) if low is None else low
        high = x.new_tensor(info.max) if high is None else high
    bounds = [None if bound is None else ordered(bound).reshape(()) for bound in (low, high)]
    return x if bounds == [None, None] else unordered(torch.clamp(ordered(x), *bounds), x.dtype)


_FLOAT = {
    **{"Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh, "Atan": torch.atan},
    **{"Atanh": torch.atanh, "Cos": torch.cos, "Cosh": torch.cosh, "Sin": torch.sin, "Sinh": torch.sinh, "Tan": torch.tan},
    **{"Tanh": torch.tanh, "Exp": torch.exp, "Log": torch.log, "Sqrt": torch.sqrt, "Erf": torch.erf},
    **{"Ceil": torch.ceil, "Floor": torch.floor, "Round": torch.round, "Reciprocal": torch.reciprocal},
}

FUNCTIONS: Functions = {
    **{name: {1: _each(function)} for name, function in _FLOAT.items()},
    "Abs": {6: absolute},
    "Neg": {6: _each(torch.neg)},
    "Sign": {9: sign},
    "Add": {7: _wide(torch.add)},
    "Sub": {7: _wide(torch.sub)},
    "Mul": {7: _wide(torch.mul)},
    "Div": {7: divide},
    "Mod": {10: modulo},
    "Pow": {7: power},
    "Sum": {6: lambda node, *inputs: reduce(torch.add, inputs)},
    "Mean": {6: mean},
    "Max": {6: _fold(torch.maximum)},
    "Min": {6: _fold(torch.minimum)},
    "Clip": {6: clip_to_attributes, 11: clip},
    "Equal": {7: equal},
    "Greater": {7: _comparison(torch.gt)},
    "GreaterOrEqual": {12: _comparison(torch.ge)},
    "Less": {7: _comparison(torch.lt)},
    "LessOrEqual": {12: _comparison(torch.le)},
    "IsInf": {10: is_infinite},
    "IsNaN": {9: is_nan},
    "And": {7: _each(torch.logical_and)},
    "Or": {7: _each(torch.logical_or)},
    "Xor": {7: _each(torch.logical_xor)},
    "Not": {1: _each(torch.logical_not)},
    "Where": {9: where},
    "BitwiseAnd": {18: _wide(torch.bitwise_and)},
    "BitwiseOr": {18: _wide(torch.bitwise_or)},
    "BitwiseXor": {18: _wide(torch.bitwise_xor)},
    "BitwiseNot": {18: _wide(torch.bitwise_not)},
    "BitShift": {11: bit_shift},
    "BitCast": {26: bit_cast},
}
