"""The number of directions in which a layer's weights move late in training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import as_float64, require, unusable
from dyncompress.measures.distances import all_finite, centred_gram
from dyncompress.types import Array, Estimate, Iterates, Need, Observation
from dyncompress.types.arrays import Float, Float64

FEWEST, ADVISED = 3, 30
CEILING = 0.25  # share of the number of rows; a ratio above it is too small by a quarter or more


@dataclass(frozen=True)
class ParticipationRatio:
    """PR = (tr C)^2 / tr C^2, C the covariance of the detrended iterates: k for movement that is even over k directions.

    Iterates are detrended by subtracting the mean of the `window` records before each; with 1, these are the increments. Without
    it, a random walk in any dimension gives about 2.5, because its first principal component holds 6 / pi^2 of its variance.

    Source: the effective number of components; random walks after Antognini, Sohl-Dickstein, NeurIPS 2018.
    Cost: T^2 d / 2 for the Gram matrix; the covariance itself is never formed. Memory: a float64 copy of the iterates.
    Fails when: there are few records: T independent movements in d equal directions give about T d / (T + d), so a ratio of T / 4
    is too small by a quarter (above it, the estimate is invalid). A sketch of length m gives about 1 / (1 / PR + 1 / m). `stderr`
    is the jackknife over records, treated as independent.

    Attributes:
        window: number of earlier records whose mean is the trend.
    """

    window: int = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        require(self.window >= 1, "participation_ratio", "window", self.window, "at least 1")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The late iterates."""
        return (Iterates(),)

    def __call__(self, observation: Observation) -> Estimate:
        """The participation ratio of the layer's detrended iterates."""
        points = observation[Iterates()]
        if len(points) < self.window + FEWEST:
            return unusable(len(points), f"{len(points)} iterates; the participation ratio needs {self.window + FEWEST}")
        if not all_finite(points):
            return unusable(len(points), "the iterates hold NaN or infinity")
        return participation_ratio(detrend(points, self.window))


def detrend(points: Float[Array, "T d"], window: int) -> Float64[np.ndarray, "T-{window} d"]:
    """Subtract from each of the points `[T, d]` the mean of the `window` points before it; the result is `[T - window, d]`.

    Example:
        >>> detrend(np.array([[0.0], [1.0], [5.0]]), 2).tolist()
        [[4.5]]
    """
    wide = as_float64(points)
    wide = wide - wide.mean(axis=0)  # so that running sums stay precise
    if window == 1:
        return np.diff(wide, axis=0)
    sums = np.cumsum(np.concatenate([np.zeros((1, wide.shape[1])), wide]), axis=0)
    return wide[window:] - (sums[window:-1] - sums[: -window - 1]) / window


def participation_ratio(rows: Float[np.ndarray, "n d"]) -> Estimate:
    """The participation ratio of the covariance of `rows` `[n, d]`.

    Example: two directions of equal movement.
        >>> participation_ratio(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])).value
        2.0
    """
    gram = centred_gram(rows)
    sizes, n = np.diagonal(gram), len(rows)
    trace = float(sizes.sum())
    if trace == 0:
        return unusable(n, "the weights didn't move")
    gram, sizes = gram / trace, sizes / trace
    rowwise = np.einsum("ij,ij->i", gram, gram)
    square = float(rowwise.sum())
    value = 1 / square
    # without one record; the mean stays that of all records
    without = (1 - sizes) ** 2 / np.maximum(square - 2 * rowwise + sizes**2, np.finfo(float).tiny)
    stderr = math.sqrt((n - 1) / n * float(np.sum((without - without.mean()) ** 2)))
    notes = []
    if value > CEILING * n:
        notes.append(f"above a quarter of the {n} movements: their number limits the estimate, record more")
    if n < ADVISED:
        notes.append(f"only {n} movements; {ADVISED} are advised")
    return Estimate(value, stderr, n, valid=n >= ADVISED and value <= CEILING * n, notes=tuple(notes))
