"""The TwoNN intrinsic dimension of a trajectory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import require, unusable
from dyncompress.measures.distances import distinct, euclidean_distances, finite
from dyncompress.types import Estimate, Iterates, Need, Observation

FEWEST, ADVISED = 20, 200
NEXT_IN_TIME = 0.01  # neighbours this share of the record apart, beyond the window, are next to each other in time
MOSTLY = 0.5


@dataclass(frozen=True)
class TwoNN:
    """The dimension d from the ratios mu = r2 / r1 of each iterate's distances to its two nearest: P(mu <= x) = 1 - x^-d.

    The line through the origin of -log(1 - F(mu)) on log mu, without the largest ratios.

    Source: Facco, d'Errico, Rodriguez, Laio, Scientific Reports 7 (2017). Departure: neighbours less than `window` records away
    in time are passed over (Theiler, Physical Review A 34, 1986). Equal iterates are merged.
    Assumes: locally uniform density; iterates that are near in space because of the set's shape and not of time.
    Cost: one distance matrix, T^2 d / 2, and a partial sort of it.
    Fails when: nearest neighbours are neighbours in time: a random walk in 2, 10, 100, 1 000 dimensions reads about 2, 5, 12, 38,
    which tells of the walk and not of a set. Where that is so for most points the estimate is invalid, and a note says so: raise
    `window` beyond the decorrelation time or record less often; no window helps a path that never comes back. It reads low in
    high dimensions (1 000 points of a 20-dimensional cube: 15). `stderr` is d / sqrt(points used), ratios taken as independent;
    `fit` is the Kolmogorov-Smirnov distance of the ratios used.

    Attributes:
        window: records within which neighbours don't count; 1: all but the point itself count.
        discard: share of the largest ratios that is left out.
    """

    window: int = 1
    discard: float = 0.1

    def __post_init__(self) -> None:
        """Check the fields."""
        require(self.window >= 1, "two_nn", "window", self.window, "at least 1")
        require(0 < self.discard < 1, "two_nn", "discard", self.discard, "between 0 and 1")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The late iterates."""
        return (Iterates(),)

    def __call__(self, observation: Observation) -> Estimate:
        """The dimension of the layer's trajectory."""
        points = observation[Iterates()]
        if not finite(points):
            return unusable(len(points), "the iterates hold NaN or infinity")
        return two_nn(euclidean_distances(points), self.window, self.discard)


def two_nn(distances: np.ndarray, window: int = 1, discard: float = 0.1) -> Estimate:
    """The dimension of points `[T]`, in the order of time, at these `[T, T]` distances.

    Example: a segment.
        >>> line = np.random.default_rng(0).random((1000, 1))
        >>> abs(two_nn(euclidean_distances(line)).value - 1) < 0.1
        True
    """
    kept, notes = distinct(distances), []
    if kept.size < FEWEST:
        return unusable(kept.size, f"{kept.size} distinct iterates; the dimension needs {FEWEST}")
    if kept.size < len(distances):
        notes.append(f"{len(distances) - kept.size} iterates equal earlier ones and were merged")
    apart = np.where(np.abs(kept[:, None] - kept) < window, np.inf, distances[np.ix_(kept, kept)])
    first, second = np.partition(apart, 1, axis=1)[:, :2].T
    usable = np.isfinite(second)
    logs = np.sort(np.log(second[usable] / first[usable]))
    used = logs[: math.floor((1 - discard) * logs.size)]
    if used.size < FEWEST or used[-1] == 0:
        return unusable(used.size, f"{used.size} ratios of distances are left that tell points apart; shorten the window")
    below = np.arange(1, used.size + 1) / logs.size
    exponent = float(-np.log1p(-below) @ used / (used @ used))
    distance = float(np.abs(-np.expm1(-exponent * used) - below).max())
    late = np.abs(kept[apart.argmin(axis=1)] - kept)[usable]
    share = float(np.mean(late < window + max(1, int(NEXT_IN_TIME * len(distances)))))
    if share > MOSTLY:
        notes.append(f"{100 * share:.0f} % of nearest neighbours are next in time: raise the window, or record less often")
    if kept.size < ADVISED:
        notes.append(f"only {kept.size} distinct iterates; {ADVISED} are advised")
    valid = kept.size >= ADVISED and share <= MOSTLY
    return Estimate(exponent, exponent / math.sqrt(used.size), used.size, fit=distance, valid=valid, notes=tuple(notes))
