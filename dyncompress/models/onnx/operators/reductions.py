"""Reductions over axes, running sums and products, the largest elements, distinct elements, determinants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from dyncompress.models.onnx.node import Function, Functions, Node, Value
from dyncompress.models.onnx.operators.widening import ordered, orderly, precise, unordered, wide
from dyncompress.models.onnx.values import integers

# A tensor, the axes and whether they are kept with length 1 -> the tensor reduced over them.
Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _over_attribute(reduction: Reduction) -> Function:
    """An operator whose axes are an attribute; all if there is none."""
    return lambda node, x: _reduced(reduction, x, node.get("axes") or range(x.ndim), bool(node.get("keepdims", 1)))


def _over_input(reduction: Reduction) -> Function:
    """An operator whose axes are an input; if there are none, all, or with `noop_with_empty_axes` none."""

    def computed(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen: Sequence[int] = [] if axes is None else integers(axes)
        if not chosen and not node.get("noop_with_empty_axes", 0):
            chosen = range(x.ndim)
        return _reduced(reduction, x, chosen, bool(node.get("keepdims", 1)))

    return computed


def _reduced(reduction: Reduction, x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    """A tensor reduced over axes; where there are none, torch would take all, so one of length 1 is put in front."""
    if not axes:
        return reduction(x.unsqueeze(0), [0], False)
    return reduction(x, sorted({axis % x.ndim for axis in axes}), keep)


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The sum, in the dtype of the elements."""
    return wide(x).sum(axes, keep).to(x.dtype)


def _sum_square(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The sum of squares."""
    return precise(wide(x)).square().sum(axes, keep).to(x.dtype)


def _l1(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The sum of absolute values."""
    return precise(wide(x)).abs().sum(axes, keep).to(x.dtype)


def _as_float(x: Tensor) -> Tensor:
    """At least float32; integers as float64."""
    return precise(x) if x.is_floating_point() else x.double()


def _l2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The Euclidean norm, whose gradient torch defines at zero too."""
    return torch.linalg.vector_norm(_as_float(x), 2, axes, keep).to(x.dtype)


def _log_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The logarithm of the sum."""
    return _as_float(x).sum(axes, keep).log().to(x.dtype)


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The logarithm of the sum of exponentials, without overflow."""
    return torch.logsumexp(_as_float(x), axes, keep).to(x.dtype)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The mean; of integers, truncated towards zero."""
    if x.is_floating_point():
        return x.mean(axes, keep)
    count = int(np.prod([x.shape[axis] for axis in axes]))
    return torch.div(wide(x).sum(axes, keep), count, rounding_mode="trunc").to(x.dtype)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The product, axis by axis, as torch multiplies over one only."""
    result = wide(x)
    for axis in reversed(axes):
        result = result.prod(axis, keep)
    return result.to(x.dtype)


def _extreme(function: Callable[..., Tensor], empty: Callable[[torch.dtype], float]) -> Reduction:
    """The maximum or minimum, and a value for what has no elements."""

    def computed(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if all(x.shape[axis] for axis in axes):
            return orderly(lambda x: function(x, axes, keep), x)
        return torch.full_like(x.sum(axes, keep), empty(x.dtype), dtype=x.dtype)

    return computed


def _lowest(dtype: torch.dtype) -> float:
    """What the maximum of no elements is."""
    return -torch.inf if dtype.is_floating_point else False if dtype == torch.bool else torch.iinfo(dtype).min


def _highest(dtype: torch.dtype) -> float:
    """What the minimum of no elements is."""
    return torch.inf if dtype.is_floating_point else True if dtype == torch.bool else torch.iinfo(dtype).max


def _place(function: Callable[..., Tensor]) -> Function:
    """The place of the first, or with `select_last_index` the last, extreme element along an axis."""

    def computed(node: Node, x: Tensor) -> Tensor:
        axis, keep, x = node.get("axis", 0), bool(node.get("keepdims", 1)), ordered(x)
        if node.get("select_last_index", 0):
            return x.shape[axis] - 1 - function(x.flip(axis), axis, keep)
        return function(x, axis, keep)

    return computed


def _running(function: Callable[..., Tensor], neutral: int) -> Function:
    """A running sum or product along an axis, from the end with `reverse`, and without the element with `exclusive`."""

    def computed(node: Node, x: Tensor, axis: Tensor) -> Tensor:
        """The running result, in the shape of `x`."""
        (along,) = integers(axis)
        result = wide(x).flip(along) if node.get("reverse", 0) else wide(x)
        if node.get("exclusive", 0) and x.shape[along]:
            first = torch.full_like(result.narrow(along, 0, 1), neutral)
            result = torch.cat([first, result.narrow(along, 0, x.shape[along] - 1)], along)
        result = function(result, along).to(x.dtype)
        return result.flip(along) if node.get("reverse", 0) else result

    return computed


def top_k(node: Node, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The k largest or smallest elements along an axis, in order, of equal ones the first, and their places."""
    return _top(x, integers(k)[0], node.get("axis", -1), bool(node.get("largest", 1)))


def top_k_of_attribute(node: Node, x: Tensor) -> tuple[Tensor, Tensor]:
    """The same with k as an attribute."""
    return _top(x, node.attributes["k"], node.get("axis", -1), True)


def _top(x: Tensor, k: int, axis: int, largest: bool) -> tuple[Tensor, Tensor]:
    """The first k of a sorted axis; `torch.topk` would leave the order of equal elements open."""
    if not x.ndim:
        return x, torch.zeros_like(x, dtype=torch.int64)
    values, places = torch.sort(ordered(x), dim=axis, descending=largest, stable=True)
    return unordered(values.narrow(axis, 0, k), x.dtype), places.narrow(axis, 0, k)


def unique(node: Node, x: Value) -> tuple[Value, Tensor, Tensor, Tensor]:
    """Distinct elements, or slices along an axis; the first place, the places in the result, and the count of each."""
    axis = node.get("axis")
    if isinstance(x, np.ndarray):
        values, inverse, counts = np.unique(x.astype(str), return_inverse=True, return_counts=True, axis=axis)
        inverse, counts = torch.from_numpy(inverse.reshape(-1)), torch.from_numpy(counts)
    else:
        assert isinstance(x, Tensor)
        values, inverse, counts = _unique_numbers(x, axis)
    places = torch.arange(inverse.numel(), device=inverse.device)
    first = torch.full_like(counts, inverse.numel()).scatter_reduce(0, inverse, places, "amin")
    if not node.get("sorted", 1):
        order = torch.argsort(first)
        first, counts, inverse = first[order], counts[order], torch.argsort(order)[inverse]
        along = 0 if axis is None else axis
        values = np.take(values, order.numpy(), along) if isinstance(values, np.ndarray) else values.index_select(along, order)
    return values.astype(object) if isinstance(values, np.ndarray) else values, first, inverse, counts


def _unique_numbers(x: Tensor, axis: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct numbers in order; complex ones by their real, then their imaginary part."""
    if x.is_complex():
        along = 0 if axis is None else axis % x.ndim
        parts = torch.view_as_real(x.reshape(-1) if axis is None else x)
        values, inverse, counts = torch.unique(parts, return_inverse=True, return_counts=True, dim=along)
        return torch.view_as_complex(values.contiguous()), inverse, counts
    values, inverse, counts = torch.unique(ordered(x), return_inverse=True, return_counts=True, dim=axis)
    return unordered(values, x.dtype), inverse.reshape(-1), counts


def non_zero(node: Node, x: Tensor) -> Tensor:
    """The places of elements that aren't zero, a column each."""
    return torch.nonzero(x != 0).T


def determinant(node: Node, x: Tensor) -> Tensor:
    """Determinants of the matrices in the last two axes."""
    return torch.linalg.det(precise(x)).to(x.dtype)


_REDUCTIONS = {
    **{"ReduceL1": _l1, "ReduceL2": _l2, "ReduceLogSum": _log_sum, "ReduceLogSumExp": _log_sum_exp, "ReduceMean": _mean},
    **{"ReduceMax": _extreme(torch.amax, _lowest), "ReduceMin": _extreme(torch.amin, _highest)},
    **{"ReduceProd": _product, "ReduceSumSquare": _sum_square},
}

FUNCTIONS: Functions = {
    **{name: {1: _over_attribute(function), 18: _over_input(function)} for name, function in _REDUCTIONS.items()},
    "ReduceSum": {1: _over_attribute(_sum), 13: _over_input(_sum)},
    "ArgMax": {1: _place(torch.argmax)},
    "ArgMin": {1: _place(torch.argmin)},
    "CumSum": {11: _running(torch.cumsum, 0)},
    "CumProd": {26: _running(torch.cumprod, 1)},
    "TopK": {1: top_k_of_attribute, 10: top_k},
    "Unique": {11: unique},
    "NonZero": {9: non_zero},
    "Det": {11: determinant},
}
