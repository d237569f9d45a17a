"""Running moments of a weight's iterates and increments, updated one iterate at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dyncompress.recording.increment_fisher import SCALED
from dyncompress.recording.sketch import chunk_length, wide_dtype
from dyncompress.types import WeightMotion


class RunningMotion:
    """Mean and variances of the iterates w_1, w_2, ... of one layer and of the increments w_t - w_{t-1}.

    The sums and sums of squares are those of w_t - w_1 and of the increments, in float64. These differences of nearby floats have
    a single rounding error, so the variances are precise even if weights are a million times larger than their motion, at half
    the passes over memory of Welford's update. The mean of the increments is (w_T - w_1) / (T - 1), for which only the first and
    the last iterate are kept. Memory: three float64 arrays and two copies of the weight, for any number of iterates.

    **Source**: shifted data in Chan, Golub, LeVeque, The American Statistician 37 (1983), after Welford, Technometrics 4 (1962).
    **Fails when**: the drift is 10^7 times the fluctuation around it, because the squares then differ by all digits of float64.
    """

    def __init__(self, weight: Tensor) -> None:
        """Start with a copy of the first iterate, of any shape."""
        self.count = 1
        self.first = weight.detach().clone(memory_format=torch.contiguous_format)
        self.last = self.first.clone()
        self.sum = torch.zeros_like(self.first, dtype=wide_dtype(weight.device))
        self.squares = torch.zeros_like(self.sum)
        self.increment_squares = torch.zeros_like(self.sum)

    def update(self, weight: Tensor) -> None:
        """Add the next iterate, of the same shape."""
        self.count += 1
        length = chunk_length(weight.device)
        sums = (self.sum, self.squares, self.increment_squares)
        parts = (part.reshape(-1).split(length) for part in (weight.detach(), self.first, self.last, *sums))
        for now, first, last, *chunk in zip(*parts, strict=True):
            _update(now, first, last, _Sums(*chunk))

    def motion(self) -> WeightMotion:
        """The mean and the unbiased variances, float32 in the weight's shape; variances of fewer than two values are nan."""
        displacement = self.last.to(self.sum.dtype) - self.first
        return WeightMotion(
            mean=_float32(self.first + self.sum / self.count),
            variance=_variance(self.squares, self.sum, self.count),
            increment_variance=_variance(self.increment_squares, displacement, self.count - 1),
            count=self.count,
        )


class RunningGradient:
    """Mean and variance of the minibatch gradient of each weight, from what the optimizer stores.

    Where the optimizer averages squared gradients, the variance is the mean of these averages over the records, less the square
    of the mean gradient. It uses every gradient, also those between records. Where it stores none, the variance is that of the
    sums of gradients between records, over `spread`. Memory: two float32 arrays of the weight's shape.
    """

    def __init__(self, weight: Tensor) -> None:
        """Start without gradients, for a weight of any shape."""
        self.total = torch.zeros_like(weight, dtype=torch.float32, memory_format=torch.contiguous_format)
        self.squares = torch.zeros_like(self.total)
        self.steps = 0
        self.count, self.means = 0, 0.0  # number of terms in `squares`, and of squared mean gradients that they contain
        self.of_sums = 0  # 1 if `squares` are those of sums of gradients

    def add_squares(self, squares: Tensor) -> None:
        """Add the optimizer's average of squared gradients at a record."""
        self.squares += squares
        self.count, self.means = self.count + 1, self.means + 1

    def add_sum(self, total: Tensor, steps: int, spread: float) -> None:
        """Add the sum of the averaged gradients of the steps since the last record.

        Args:
            total: the sum.
            steps: how many.
            spread: the variance of this sum in units of the gradient's variance; 0: the optimizer averages squared gradients.
        """
        self.total += total
        self.steps += steps
        if spread:
            self.squares.addcmul_(total, total, value=1 / spread)
            self.count, self.means, self.of_sums = self.count + 1, self.means + steps**2 / spread, 1

    def variance(self) -> np.ndarray:
        """The variance of a minibatch's gradient, float32 in the weight's shape; nan for fewer than `SCALED` sums."""
        if self.count < (SCALED if self.of_sums else 1):
            return np.full(tuple(self.total.shape), np.nan, np.float32)
        mean = self.total / max(self.steps, 1)
        return _float32((self.squares - self.means * mean.square()).clamp_min(0) / (self.count - self.of_sums))


class _Sums(NamedTuple):
    """The sums of a chunk of weights, which are changed in place."""

    displacements: Tensor
    squares: Tensor
    increment_squares: Tensor


def _update(weight: Tensor, first: Tensor, last: Tensor, sums: _Sums) -> None:
    """Add one iterate of a chunk of weights to the sums, and copy it to `last`."""
    now = weight if weight.element_size() >= 4 else weight.float()  # a difference of two halves would be rounded to a half
    step, displacement = (now - last).to(sums.squares.dtype), (now - first).to(sums.squares.dtype)
    sums.increment_squares.addcmul_(step, step)
    sums.squares.addcmul_(displacement, displacement)
    sums.displacements.add_(displacement)
    last.copy_(weight)


def _float32(values: Tensor) -> np.ndarray:
    return values.cpu().float().numpy()


def _variance(squares: Tensor, total: Tensor, count: int) -> np.ndarray:
    """The unbiased variance of `count` values from the sums of their squares and of the values; nan for fewer than two."""
    if count < 2:
        return np.full(tuple(squares.shape), np.nan, np.float32)
    return _float32((squares - total.square() / count).clamp_min(0) / (count - 1))
