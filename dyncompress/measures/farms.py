"""The spectral tail exponent from windows of one aspect ratio (FARMS), comparable between shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dyncompress.measures.border import kernel_slices, require, unusable
from dyncompress.measures.esd_alpha import RANK_FLOOR, upper_half_exponent
from dyncompress.types import Estimate, Need, Observation, Weight
from dyncompress.types.arrays import Float, Float64, Int64


@dataclass(frozen=True)
class Farms:
    """`esd_mid` over the pooled eigenvalues of sub-matrices that all have one aspect ratio.

    The width of a noise spectrum depends on the aspect ratio of the matrix (Marchenko-Pastur), so exponents of layers of
    different shapes can't be compared. Those of windows of one shape can: they are about 2.1 for Gaussian weights of any shape.

    Source: Hu, Goel, Killiakov, Yang, ICML 2025 (arXiv 2506.06280). Departures: matrices taller than wide are
    transposed, windows are spaced evenly from the first to the last row and column, and the windows of all kernel positions are
    pooled (for convolutions, their code averages exponents).
    Assumes: as `esd_mid`. Overlapping windows repeat weights; `stderr` is corrected for it.
    Cost: positions * per_dimension^2 symmetric eigenvalue problems of size `window`.
    Fails when: the smaller side has few rows (invalid with fewer than 50 eigenvalues in all).

    Attributes:
        window: largest number of rows of a window; smaller layers use their smaller side.
        aspect: columns / rows of a window, at least 1.
        per_dimension: number of windows along each side.
    """

    window: int = 256
    aspect: float = 1.0
    per_dimension: int = 3

    def __post_init__(self) -> None:
        """Check the fields."""
        require(self.window >= 2, "farms", "window", self.window, "at least 2")
        require(self.aspect >= 1, "farms", "aspect", self.aspect, "at least 1")
        require(self.per_dimension >= 1, "farms", "per_dimension", self.per_dimension, "at least 1")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight."""
        return (Weight(),)

    def __call__(self, observation: Observation) -> Estimate:
        """Estimate alpha of the layer's windows."""
        slices = kernel_slices(observation)
        if slices.shape[1] > slices.shape[2]:
            slices = slices.swapaxes(1, 2)
        largest = np.abs(slices).max(initial=0.0)
        rows = min(self.window, slices.shape[1], int(slices.shape[2] / self.aspect))
        if largest == 0:
            return unusable(0, "all weights are zero")
        if rows < 1:
            return unusable(0, f"the matrix is too narrow for windows of aspect {self.aspect:g}")
        columns = int(rows * self.aspect)
        pooled = np.concatenate([self._eigenvalues(matrix / largest, rows, columns) for matrix in slices])
        values = np.sort(pooled[pooled > RANK_FLOOR * pooled.max()])
        estimate = upper_half_exponent(values, pooled.size - values.size)
        windows = pooled.size // rows
        repeats = max(1.0, windows * rows * columns / slices.size)
        return replace(estimate, stderr=estimate.stderr * math.sqrt(repeats))

    def _eigenvalues(self, matrix: Float[np.ndarray, "m n"], rows: int, columns: int) -> Float64[np.ndarray, " pooled"]:
        """Eigenvalues of V V^T for every window V of one matrix, `[windows * rows]`."""
        down = _starts(matrix.shape[0], rows, self.per_dimension)
        across = _starts(matrix.shape[1], columns, self.per_dimension)
        windows = np.lib.stride_tricks.sliding_window_view(matrix, (rows, columns))[np.ix_(down, across)]
        return np.linalg.eigvalsh(windows @ windows.swapaxes(-1, -2)).reshape(-1)


def _starts(length: int, size: int, count: int) -> Int64[np.ndarray, " windows"]:
    """First indices of at most `count` windows of `size`, spaced evenly over `length`."""
    return np.unique(np.linspace(0, length - size, count).round().astype(np.int64))
