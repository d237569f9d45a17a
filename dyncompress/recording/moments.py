"""Running moments of a weight's iterates and of their increments, one iterate at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dyncompress.recording.sketch import chunk_length, wide_dtype
from dyncompress.types import WeightMotion


class RunningMotion:
    """Welford's moments of the iterates w_1, w_2, ... of one layer and of the increments w_t - w_{t-1}.

    The mean of the increments telescopes to (w_T - w_1) / (T - 1), so only the first and the last iterate are kept for it.
    Memory: three float64 and two copies of the weight, whatever the number of iterates.

    Source: Welford, Technometrics 4 (1962).
    """

    def __init__(self, weight: Tensor) -> None:
        """Start at the first iterate, of any shape; it is copied."""
        self.count = 1
        self.first = weight.detach().clone(memory_format=torch.contiguous_format)
        self.last = self.first.clone()
        self.mean = self.first.to(wide_dtype(weight.device), copy=True)
        self.squares = torch.zeros_like(self.mean)
        self.increment_squares = torch.zeros_like(self.mean)

    def update(self, weight: Tensor) -> None:
        """Take in the next iterate, of the same shape."""
        self.count += 1
        parts = (weight.detach(), self.first, self.last, self.mean, self.squares, self.increment_squares)
        length = chunk_length(weight.device)
        for chunk in zip(*(part.reshape(-1).split(length) for part in parts), strict=True):
            _update(self.count, *chunk)

    def motion(self) -> WeightMotion:
        """The unbiased moments in float32; variances of fewer than two values are nan."""
        return WeightMotion(
            mean=_float32(self.mean),
            variance=_variance(self.squares, self.count),
            increment_variance=_variance(self.increment_squares, self.count - 1),
            count=self.count,
        )


def _update(
    count: int, weight: Tensor, first: Tensor, last: Tensor, mean: Tensor, squares: Tensor, increment_squares: Tensor
) -> None:
    """Welford's step on one chunk, in place; `count` includes the new iterate `weight`."""
    now, before = weight.to(mean.dtype), last.to(mean.dtype)
    deviation = now - mean
    mean.add_(deviation, alpha=1 / count)
    squares.addcmul_(deviation, now - mean)
    step, steps = now - before, count - 1
    mean_before = (before - first) / max(steps - 1, 1)
    increment_squares.addcmul_(step - mean_before, step - (now - first) / steps)
    last.copy_(weight)


def _float32(values: Tensor) -> np.ndarray:
    return values.cpu().float().numpy()


def _variance(squares: Tensor, count: int) -> np.ndarray:
    """Sum of squared deviations of `count` values -> their variance."""
    return _float32(squares.clamp_min(0) / (count - 1)) if count > 1 else np.full(tuple(squares.shape), np.nan, np.float32)
