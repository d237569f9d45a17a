"""The TwoNN intrinsic dimension of a trajectory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import require, unusable
from dyncompress.measures.distances import distinct, euclidean_distances, finite
from dyncompress.types import Estimate, Iterates, Need, Observation

FEWEST, ADVISED = 20, 200
BLOCKS = 10
NEXT_IN_TIME = 0.01  # neighbours this share of the record apart, beyond the window, are next to each other in time
MOSTLY = 0.5


@dataclass(frozen=True)
class TwoNN:
    """The dimension d from the ratios mu = r2 / r1 of each iterate's distances to its two nearest: P(mu <= x) = 1 - x^-d.

    The line through the origin of -log(1 - F(mu)) on log mu, without the largest ratios.

    Source: Facco, d'Errico, Rodriguez, Laio, Scientific Reports 7 (2017). Departure: neighbours less than `window` records away
    in time are passed over (Theiler, Physical Review A 34, 1986). Equal iterates are merged.
    Assumes: locally uniform density; iterates that are near in space because of the set's shape and not of time.
    Cost: one distance matrix, T^2 d / 2, and eleven searches of it for neighbours.
    Fails when: neighbours are next to each other in time: a random walk in 2, 10, 100, 1 000 dimensions reads about 2, 5, 12, 38,
    which tells of the walk and not of a set. Where that is so for most points the estimate is invalid, and a note says so: record
    less often than the decorrelation time. `window` takes out a point's own past and future, but both neighbours may still lie
    next to each other on another stretch of a smooth path (then it reads far too high, and is invalid too). It reads low in
    high dimensions (1 000 points of a 20-dimensional cube: 15). `stderr` is a jackknife over tenths of the record, neighbours
    found anew, about 1.6 times too large for independent points; `fit` is the Kolmogorov-Smirnov distance of the ratios used.

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
    among = distances[np.ix_(kept, kept)]
    logs, first, second = _neighbours(among, kept, window)
    used = logs[: _count(logs, discard)]
    if used.size < FEWEST or used[-1] == 0:
        return unusable(used.size, f"{used.size} ratios of distances are left that tell points apart; shorten the window")
    exponent = _slope(logs, discard)
    horizon = max(1, int(NEXT_IN_TIME * len(distances)))
    share = float(np.mean((first < window + horizon) | (second < window + horizon)))
    distance = float(np.abs(-np.expm1(-exponent * used) - _shares(logs)[: used.size]).max())
    if share > MOSTLY:
        notes.append(f"{100 * share:.0f} % of neighbours are next in time: record less often, or raise the window")
    if kept.size < ADVISED:
        notes.append(f"only {kept.size} distinct iterates; {ADVISED} are advised")
    stderr = _jackknife(among, kept, window, discard)
    if math.isnan(stderr):
        notes.append("no standard error: too few ratios are left without a tenth of the record")
    valid = kept.size >= ADVISED and share <= MOSTLY
    return Estimate(exponent, stderr, used.size, fit=distance, valid=valid, notes=tuple(notes))


def _neighbours(distances: np.ndarray, times: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every point that has two neighbours: log(r2 / r1), ascending; how far in time the first is; and how far from the first
    the second is."""
    rows = np.arange(len(times))
    apart = np.where(np.abs(times[:, None] - times) < window, np.inf, distances)
    first = apart.argmin(axis=1)
    nearest = apart[rows, first]
    apart[rows, first] = np.inf
    second = apart.argmin(axis=1)
    next_nearest = apart[rows, second]
    whole = np.isfinite(next_nearest)
    logs = np.sort(np.log(next_nearest[whole] / nearest[whole]))
    return logs, np.abs(times[first] - times)[whole], np.abs(times[second] - times[first])[whole]


def _count(logs: np.ndarray, discard: float) -> int:
    """How many ratios are used."""
    return math.floor((1 - discard) * logs.size)


def _shares(logs: np.ndarray) -> np.ndarray:
    """The share of ratios up to each."""
    return np.arange(1, logs.size + 1) / logs.size


def _slope(logs: np.ndarray, discard: float) -> float:
    """Of the least-squares line through the origin; nan where all ratios used are 1."""
    used = logs[: _count(logs, discard)]
    size = float(used @ used)
    return float(-np.log1p(-_shares(logs)[: used.size]) @ used) / size if size > 0 else math.nan


def _jackknife(distances: np.ndarray, times: np.ndarray, window: int, discard: float) -> float:
    """Standard error from leaving out one tenth of the record after another, neighbours found anew: points share neighbours, and
    stretches of the record resemble each other."""
    left = []
    for block in np.array_split(np.arange(len(times)), BLOCKS):
        rest = np.delete(np.arange(len(times)), block)
        left.append(_slope(_neighbours(distances[np.ix_(rest, rest)], times[rest], window)[0], discard))
    return math.sqrt((BLOCKS - 1) * float(np.var(left)))
