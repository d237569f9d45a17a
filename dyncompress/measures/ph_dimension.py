"""The persistent-homology dimension of a trajectory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import require, unusable
from dyncompress.measures.distances import all_finite, distinct_points, euclidean_distances
from dyncompress.measures.spanning_tree import tree_lengths
from dyncompress.types import Estimate, Iterates, Need, Observation
from dyncompress.types.arrays import Float, Float64, Int64

FEWEST, ADVISED = 20, 200
FEW = 7.0  # over the number of points: relative bias, measured on random walks and cubes with 20 to 200 points
SHARES = np.arange(4, 20) / 20  # sizes of the subsamples: of 1 000 points, 200 to 950 in steps of 50
STEEPEST = 0.98  # a slope above it means a dimension above 50, which a thousand points can't resolve


@dataclass(frozen=True)
class PhDimension:
    """dim = alpha / (1 - m) with m the slope of log E_alpha(n) on log n over subsamples of n of the T late iterates.

    E_alpha(n) = sum over the lifetimes of degree-0 persistent homology (the edges of the minimum spanning tree) of
    lifetime^alpha grows as n^(1 - alpha / dim). For bounded sets, this dimension is the upper box dimension.

    Source: Birdal, Lou, Guibas, Simsekli, NeurIPS 2021. Departures: sizes are 20 to 95 % of the records in steps of 5 %,
    which for 1 000 records are theirs; the slope is the mean over `repeats` schedules instead of one; equal iterates are merged.
    Assumes: bounded iterates, and sizes at which the power law holds.
    Cost: one distance matrix, T^2 d / 2; then T times the size for each of 16 `repeats` trees.
    Fails when: the dimension is high (1 000 points of a 20-dimensional cube give 15). Any diffusive trajectory gives 2.0 to
    2.3, whatever the size of its layer: the value shows how rough it is in time, not how many directions are active. Few
    points make it too high: 30 of a walk in 100 dimensions give 3.1, 1 000 give 2.3. It depends on stride, T and the schedule
    of the learning rate, but not on the scale of the weights. The bound of the paper contains constants that can't be
    computed. `stderr` is the standard deviation over schedules of one trajectory (they overlap), not over training runs, and
    7 / T of the value for the bias of few points; `fit` is the mean squared residual of the straight lines.

    Attributes:
        alpha: exponent of the lifetimes.
        repeats: number of schedules of subsamples.
        seed: seed of the subsamples.
    """

    alpha: float = 1.0
    repeats: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the fields."""
        require(self.alpha > 0, "ph_dimension", "alpha", self.alpha, "above 0")
        require(self.repeats >= 2, "ph_dimension", "repeats", self.repeats, "at least 2")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The late iterates."""
        return (Iterates(),)

    def __call__(self, observation: Observation) -> Estimate:
        """The dimension of the layer's trajectory."""
        points = observation[Iterates()]
        if not all_finite(points):
            return unusable(len(points), "the iterates hold NaN or infinity")
        return dimension_of(euclidean_distances(points), self.alpha, self.repeats, self.seed)


def dimension_of(distances: Float[np.ndarray, "T T"], alpha: float = 1.0, repeats: int = 10, seed: int = 0) -> Estimate:
    """The dimension of T points with `distances` `[T, T]`, of any pseudo-metric.

    Example: points on a circle.
        >>> angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 500)
        >>> estimate = dimension_of(euclidean_distances(np.stack([np.cos(angles), np.sin(angles)], axis=1)))
        >>> abs(estimate.value - 1) < 0.1
        True
    """
    first, notes = distinct_points(distances), []
    if first.size < FEWEST:
        return unusable(first.size, f"{first.size} distinct iterates; the dimension needs {FEWEST}")
    if first.size < len(distances):
        notes.append(f"{len(distances) - first.size} iterates equal earlier ones and were merged")
    slopes, residuals = lifetime_slopes(distances, first, alpha=alpha, repeats=repeats, seed=seed)
    slope = float(slopes.mean())
    if slope >= STEEPEST:
        notes.append(
            f"slope {slope:.3f}: the lifetime sum grows nearly as the number of first, the dimension is too high to estimate"
        )
    if first.size < ADVISED:
        notes.append(f"only {first.size} distinct iterates; {ADVISED} are advised")
    dimensions = alpha / (1 - np.minimum(slopes, STEEPEST))
    value = alpha / (1 - min(slope, STEEPEST))
    valid = slope < STEEPEST and first.size >= ADVISED
    fit = float(residuals.mean())
    stderr = math.hypot(float(dimensions.std(ddof=1)), FEW / first.size * value)
    return Estimate(value, stderr, first.size, fit=fit, valid=valid, notes=tuple(notes))


def lifetime_slopes(
    distances: Float[np.ndarray, "T T"], points: Int64[np.ndarray, " k"], *, alpha: float, repeats: int, seed: int
) -> tuple[Float64[np.ndarray, " repeats"], Float64[np.ndarray, " repeats"]]:
    """For every schedule of subsamples, the slope of log E_alpha on log n and the mean squared residual.

    Args:
        distances: `[T, T]`.
        points: `[k]` indices of the points to draw from; no two at distance zero.
        alpha: exponent of the lifetimes.
        repeats: number of schedules.
        seed: seed of the draws; the subsamples depend on it and on k only, not on the metric.

    Returns:
        The slopes `[repeats]` and the residuals `[repeats]`.
    """
    sizes = np.unique(np.round(SHARES * points.size).astype(int))
    logs = np.empty((repeats, sizes.size))
    for repeat in range(repeats):
        generator = np.random.default_rng([seed, repeat])
        for column, size in enumerate(sizes):
            lengths = tree_lengths(distances, generator.choice(points, size, replace=False))
            logs[repeat, column] = _log_sum(lengths, alpha)
    abscissa = np.log(sizes) - np.log(sizes).mean()
    ordinate = logs - logs.mean(axis=1, keepdims=True)
    slopes = ordinate @ abscissa / (abscissa @ abscissa)
    residuals = np.mean((ordinate - slopes[:, None] * abscissa) ** 2, axis=1)
    return slopes, residuals


def _log_sum(lengths: Float[np.ndarray, " edges"], alpha: float) -> float:
    """Log of the sum of powers, without overflow at any alpha."""
    longest = lengths.max()
    return float(np.log(np.sum((lengths / longest) ** alpha)) + alpha * np.log(longest))
