"""Unsigned integers of 16, 32 and 64 bits, for which torch has few functions, as int64; half floats as float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
_HALVES = (torch.float16, torch.bfloat16)
_SIGN = torch.iinfo(torch.int64).min  # of an int64; added to one, it flips the highest bit


def wide(x: Tensor) -> Tensor:
    """Unsigned integers as int64 with the same bits, so that sums, products and bit-wise functions agree; others unchanged.

    Example:
        >>> wide(torch.tensor([2**64 - 1], dtype=torch.uint64))
        tensor([-1])
    """
    return x.to(torch.int64) if x.dtype in _UNSIGNED else x


def ordered(x: Tensor) -> Tensor:
    """The same in the order of the numbers, for comparisons: of uint64 the highest bit is flipped.

    Example:
        >>> ordered(torch.tensor([0, 2**64 - 1], dtype=torch.uint64)).tolist() == [-(2**63), 2**63 - 1]
        True
    """
    return wide(x) + _SIGN if x.dtype == torch.uint64 else wide(x)


def unordered(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers of a dtype, from what `ordered` made of them."""
    return (x - _SIGN if dtype == torch.uint64 else x).to(dtype)


def widely(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """A function of tensors of one dtype, computed on what `wide` makes of them."""
    return function(*(wide(x) for x in inputs)).to(inputs[0].dtype)


def orderly(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """A function that chooses among numbers by their order, computed on what `ordered` makes of them."""
    return unordered(function(*(ordered(x) for x in inputs)), inputs[0].dtype)


def precise(x: Tensor) -> Tensor:
    """Half floats as float32, so that sums and squares don't overflow; others unchanged."""
    return x.float() if x.dtype in _HALVES else x
