"""The number of directions in which a layer's weights move late in training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import as_float64, require, unusable
from dyncompress.measures.distances import all_finite, centred_gram
from dyncompress.types import Array, Estimate, Iterates, Need, Observation
from dyncompress.types.arrays import Float, Float64

FEWEST, ADVISED = 4, 30
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
    is the jackknife over records, treated as independent, and the distance to `unlimited_ratio`, which a note gives as well.

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
    jackknife = math.sqrt((n - 1) / n * float(np.sum((without - without.mean()) ** 2)))
    unlimited, notes = unlimited_ratio(gram), []
    stderr = math.hypot(jackknife, unlimited - value)
    if value > CEILING * n:
        notes.append(f"above a quarter of the {n} movements, which limit it: without that limit it is about {unlimited:.3g}")
    if n < ADVISED:
        notes.append(f"only {n} movements; {ADVISED} are advised")
    return Estimate(value, stderr, n, valid=n >= ADVISED and value <= CEILING * n, notes=tuple(notes))


def unlimited_ratio(gram: Float64[np.ndarray, "n n"]) -> float:
    """The participation ratio from unbiased estimates of (tr C)^2 and tr C^2, which no number of movements limits.

    With S the sample covariance of n movements x_i and Q = sum |x_i - mean|^4 / (n - 1), they are, up to one common factor,
    2 tr S^2 + (n^2 - 3 n + 1) (tr S)^2 - n Q and (n - 1) (n - 2) tr S^2 + (tr S)^2 - n Q.

    Source: Himeno, Yamada, Journal of Multivariate Analysis 130 (2014), for independent movements of any law.
    Fails when: there are fewer than 10 movements or so: nine in 600 equal directions give 450 to 880, four give 260 to 3 900.

    Args:
        gram: `[n, n]` inner products of the centred movements, n at least 4.

    Returns:
        The ratio; infinity if the estimate of tr C^2 isn't positive.

    Example: thirty movements in a thousand equal directions.
        >>> gram = centred_gram(np.random.default_rng(1).standard_normal((30, 1000)))
        >>> 800 < unlimited_ratio(gram) < 1200
        True
    """
    n, sizes = len(gram), np.diagonal(gram) / (len(gram) - 1)
    square, trace = float(np.sum(np.square(gram))) / (n - 1) ** 2, float(sizes.sum())
    fourth = n * (n - 1) * float(np.sum(np.square(sizes)))
    above = 2 * square + (n * n - 3 * n + 1) * trace**2 - fourth
    below = (n - 1) * (n - 2) * square + trace**2 - fourth
    return above / below if below > 0 else math.inf
