"""A power law fitted above the threshold with the best fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import NO_TAIL, flat_weights, require, unusable
from dyncompress.types import Estimate, Need, Observation, Weight
from dyncompress.types.arrays import Float, Float64, Int64

FEWEST, ADVISED = 10, 50
PROBES = 48
ROWS = 1 << 14  # candidates at once: memory stays near ROWS * PROBES float64 numbers
ROUNDING = 1e-12


@dataclass(frozen=True)
class PowerLawFit:
    """A density x^-alpha above a threshold.

    Attributes:
        alpha: exponent of the density (that of the survival function is one less).
        threshold: smallest value that belongs to the tail.
        distance: Kolmogorov-Smirnov distance, with the empirical distribution i / n, i = 0..n-1.
        n: number of values in the tail.
    """

    alpha: float
    threshold: float
    distance: float
    n: int

    @property
    def stderr(self) -> float:
        """(alpha - 1) / sqrt(n), ignoring that the threshold was chosen from the same data."""
        return (self.alpha - 1) / math.sqrt(self.n)


@dataclass(frozen=True)
class PowerLaw:
    """The density exponent alpha of |w| above the threshold with the smallest Kolmogorov-Smirnov distance.

    For a threshold x_min with n values at or above it

        alpha = 1 + n / sum log(x_i / x_min),    standard error (alpha - 1) / sqrt(n);

    x_min is the one whose fit is closest in Kolmogorov-Smirnov distance (`fit`).

    Source: Clauset, Shalizi, Newman, SIAM Review 51 (2009). The result is that of the package `powerlaw`; the scan
    computes the full distance only where a lower bound of it is below the best so far.
    Assumes: independent weights.
    Cost: O(n log n) and a few full distances for n = max_tail.
    Fails when: there is no tail (alpha above 6 is invalid). The tail may consist of tens of weights: look at n, and at stderr,
    which doesn't include the uncertainty of the threshold.

    Attributes:
        max_tail: the threshold is one of so many of the largest |w|.
    """

    max_tail: int = 10_000

    def __post_init__(self) -> None:
        """Check the fields."""
        require(self.max_tail >= FEWEST, "power_law", "max_tail", self.max_tail, f"at least {FEWEST}")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight."""
        return (Weight(),)

    def __call__(self, observation: Observation) -> Estimate:
        """Estimate alpha of the layer's weights."""
        values = np.abs(flat_weights(observation))
        positive = values[values > 0]
        zeros, size = values.size - positive.size, positive.size
        notes = [f"{zeros} exact zeros left out"] if zeros else []
        if size > self.max_tail:
            positive = np.partition(positive, size - self.max_tail)[size - self.max_tail :]
            notes.append(f"threshold sought among the {self.max_tail} largest of {size} weights")
        return as_estimate(fit_power_law(positive), positive.size, "non-zero weights", notes)


def as_estimate(fit: PowerLawFit | None, n: int, what: str, notes: list[str]) -> Estimate:
    """The fit as an Estimate with its validity and notes; it was made on `n` values, which notes call `what`."""
    if n < FEWEST:
        return unusable(n, f"{n} {what}; a power law needs {FEWEST}")
    if fit is None:
        return unusable(n, f"all {what} have the same size")
    notes = list(notes)
    if fit.alpha > NO_TAIL:
        notes.append(f"no power-law tail (exponent above {NO_TAIL:g})")
    if n < ADVISED:
        notes.append(f"only {n} {what}; {ADVISED} are advised")
    if fit.n < FEWEST:
        notes.append(f"only {fit.n} values in the tail")
    valid = fit.alpha <= NO_TAIL and n >= ADVISED and fit.n >= FEWEST
    return Estimate(fit.alpha, fit.stderr, fit.n, fit=fit.distance, valid=valid, notes=tuple(notes))


def fit_power_law(values: Float[np.ndarray, " n"], lowest: float = 0.0, highest: float = math.inf) -> PowerLawFit | None:
    """The best power law of positive `values` `[n]`, over all thresholds in `[lowest, highest]` that are values themselves.

    Returns:
        The fit, or None where there are fewer than two different values.

    Example: exact quantiles of a law with density exponent 3.
        >>> import numpy as np
        >>> round(fit_power_law((np.arange(1, 10_001) / 10_001) ** -0.5).alpha, 1)
        3.0
    """
    ordered = np.sort(values)
    if ordered.size < 2 or ordered[0] == ordered[-1]:
        return None
    logs = np.log(ordered / ordered[-1])  # relative to the largest, so that the scale doesn't matter
    starts = np.flatnonzero(np.diff(ordered, prepend=0.0) > 0)[:-1]  # the largest value alone isn't a tail
    starts = starts[(ordered[starts] >= lowest) & (ordered[starts] <= highest)]
    if starts.size == 0:
        return None
    tail = ordered.size - starts
    excess = np.cumsum(logs[::-1])[::-1][starts] - tail * logs[starts]
    alphas = 1 + tail / excess
    parts = [slice(i, i + ROWS) for i in range(0, starts.size, ROWS)]
    bounds = np.concatenate([_lower_bounds(logs, starts[part], alphas[part]) for part in parts])
    best, distance = -1, math.inf
    for candidate in np.argsort(bounds, kind="stable"):
        if bounds[candidate] > distance + ROUNDING:
            break
        exact = _distance(logs[starts[candidate] :] - logs[starts[candidate]], float(alphas[candidate]))
        if exact < distance or (exact == distance and candidate < best):
            best, distance = int(candidate), exact
    return PowerLawFit(float(alphas[best]), float(ordered[starts[best]]), distance, int(tail[best]))


def _lower_bounds(
    logs: Float64[np.ndarray, " n"], starts: Int64[np.ndarray, " candidates"], alphas: Float64[np.ndarray, " candidates"]
) -> Float64[np.ndarray, " candidates"]:
    """The distance at a few places of every candidate's tail, which is at most the full distance."""
    tail = (logs.size - starts)[:, None]
    ranks = np.minimum((np.linspace(0, 1, PROBES) * tail).astype(np.int64), tail - 1)
    excess = logs[starts[:, None] + ranks] - logs[starts][:, None]
    return np.abs(-np.expm1((1 - alphas[:, None]) * excess) - ranks / tail).max(axis=1)


def _distance(excess: Float64[np.ndarray, " tail"], alpha: float) -> float:
    """Kolmogorov-Smirnov distance between ascending log(x / threshold) and the fitted law."""
    return float(np.abs(-np.expm1((1 - alpha) * excess) - np.arange(excess.size) / excess.size).max())
