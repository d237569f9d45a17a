"""Running moments of a weight's iterates and of their increments, one iterate at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dyncompress.recording.sketch import chunk_length, wide_dtype
from dyncompress.types import WeightMotion


class RunningMotion:
    """Moments of the iterates w_1, w_2, ... of one layer and of the increments w_t - w_{t-1}.

    Sums and squares are taken of w_t - w_1 and of the increments: differences of floats near each other, which hold one rounding,
    in sums of float64. So nothing is lost where weights are a million times larger than their motion, at half the passes of
    Welford's update. The mean of the increments telescopes to (w_T - w_1) / (T - 1), so only the first and the last iterate are
    kept for it. Memory: three float64 and two copies of the weight, whatever the number of iterates.

    Source: shifted data in Chan, Golub, LeVeque, The American Statistician 37 (1983), after Welford, Technometrics 4 (1962).
    Fails when: drift is 10^7 times the fluctuation around it; their squares differ by all the digits of float64 then.
    """

    def __init__(self, weight: Tensor) -> None:
        """Start at the first iterate, of any shape; it is copied."""
        self.count = 1
        self.first = weight.detach().clone(memory_format=torch.contiguous_format)
        self.last = self.first.clone()
        self.sum = torch.zeros_like(self.first, dtype=wide_dtype(weight.device))
        self.squares = torch.zeros_like(self.sum)
        self.increment_squares = torch.zeros_like(self.sum)

    def update(self, weight: Tensor) -> None:
        """Take in the next iterate, of the same shape."""
        self.count += 1
        parts = (weight.detach(), self.first, self.last, self.sum, self.squares, self.increment_squares)
        length = chunk_length(weight.device)
        for chunk in zip(*(part.reshape(-1).split(length) for part in parts), strict=True):
            _update(*chunk)

    def motion(self) -> WeightMotion:
        """The unbiased moments in float32; variances of fewer than two values are nan."""
        way = self.last.to(self.sum.dtype) - self.first
        return WeightMotion(
            mean=_float32(self.first + self.sum / self.count),
            variance=_variance(self.squares, self.sum, self.count),
            increment_variance=_variance(self.increment_squares, way, self.count - 1),
            count=self.count,
        )


def _update(weight: Tensor, first: Tensor, last: Tensor, total: Tensor, squares: Tensor, increment_squares: Tensor) -> None:
    """One more iterate of one chunk, in place."""
    now = weight if weight.element_size() >= 4 else weight.float()  # halves would round their differences
    step, way = (now - last).to(total.dtype), (now - first).to(total.dtype)
    increment_squares.addcmul_(step, step)
    squares.addcmul_(way, way)
    total.add_(way)
    last.copy_(weight)


def _float32(values: Tensor) -> np.ndarray:
    return values.cpu().float().numpy()


def _variance(squares: Tensor, total: Tensor, count: int) -> np.ndarray:
    """Sums of squares and of `count` values -> their variance."""
    if count < 2:
        return np.full(tuple(squares.shape), np.nan, np.float32)
    return _float32((squares - total.square() / count).clamp_min(0) / (count - 1))
