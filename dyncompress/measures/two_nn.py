"""The TwoNN intrinsic dimension of a trajectory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import require, unusable
from dyncompress.measures.distances import all_finite, distinct_points, euclidean_distances
from dyncompress.types import Estimate, Iterates, Need, Observation
from dyncompress.types.arrays import Float, Float64, Int64

FEWEST, ADVISED = 20, 200
BLOCKS = 10
NEXT_IN_TIME = 0.01  # neighbours are close in time if they lie within the window and this share of the record
MOST_CLOSE = 0.5  # largest share of points whose neighbours are close in time


@dataclass(frozen=True)
class TwoNN:
    """The dimension d from the ratios mu = r2 / r1 of each iterate's distances to its two nearest: P(mu <= x) = 1 - x^-d.

    d is the slope of the line through the origin that fits -log(1 - F(mu)) on log mu, without the largest ratios.

    Source: Facco, d'Errico, Rodriguez, Laio, Scientific Reports 7 (2017). Departures: neighbours less than `window` records away
    in time are ignored (Theiler, Physical Review A 34, 1986), and equal iterates are merged.
    Assumes: locally uniform density; iterates are close in space because of the shape of the set, not because they are close in
    time.
    Cost: one distance matrix, T^2 d / 2, and eleven searches of it for neighbours.
    Fails when: neighbours are close in time: a random walk in 2, 10, 100, 1 000 dimensions gives about 2, 5, 12, 38, which
    describes the walk and not a set. Where that holds for most points, the estimate is invalid and a note says so; record less
    often than the decorrelation time. `window` excludes a point's own past and future, but both neighbours may still be close in
    time to each other, on another part of a smooth path. Then the value is far too high, and invalid too. It is too low in high
    dimensions (1 000 points of a 20-dimensional cube give 15). `stderr` is a jackknife over tenths of the record with a new
    search for neighbours, about 1.6 times too large for independent points; `fit` is the Kolmogorov-Smirnov distance of the
    ratios used.

    Attributes:
        window: points less than so many records apart aren't neighbours; with 1, all other points may be.
        discard: share of the ratios that is left out, the largest ones, in (0, 1).
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
        if not all_finite(points):
            return unusable(len(points), "the iterates hold NaN or infinity")
        return two_nn(euclidean_distances(points), self.window, self.discard)


def two_nn(distances: Float[np.ndarray, "T T"], window: int = 1, discard: float = 0.1) -> Estimate:
    """The dimension of T points in the order of time, with `distances` `[T, T]`.

    Example: a segment.
        >>> line = np.random.default_rng(0).random((1000, 1))
        >>> abs(two_nn(euclidean_distances(line)).value - 1) < 0.1
        True
    """
    times, notes = distinct_points(distances), []
    if times.size < FEWEST:
        return unusable(times.size, f"{times.size} distinct iterates; the dimension needs {FEWEST}")
    if times.size < len(distances):
        notes.append(f"{len(distances) - times.size} iterates equal earlier ones and were merged")
    among = distances[np.ix_(times, times)]
    logs, first, second = _neighbours(among, times, window)
    used = logs[: _count(logs, discard)]
    if used.size < FEWEST or used[-1] == 0:
        return unusable(used.size, f"{used.size} ratios of distances are left that distinguish points; shorten the window")
    exponent = _slope(logs, discard)
    horizon = max(1, int(NEXT_IN_TIME * len(distances)))
    share = float(np.mean((first < window + horizon) | (second < window + horizon)))
    distance = float(np.abs(-np.expm1(-exponent * used) - _shares(logs)[: used.size]).max())
    if share > MOST_CLOSE:
        notes.append(f"{100 * share:.0f} % of neighbours are close in time: record less often, or raise the window")
    if times.size < ADVISED:
        notes.append(f"only {times.size} distinct iterates; {ADVISED} are advised")
    stderr = _jackknife(among, times, window, discard)
    if math.isnan(stderr):
        notes.append("no standard error: too few ratios are left without a tenth of the record")
    valid = times.size >= ADVISED and share <= MOST_CLOSE
    return Estimate(exponent, stderr, used.size, fit=distance, valid=valid, notes=tuple(notes))


def _neighbours(
    distances: Float[np.ndarray, "k k"], times: Int64[np.ndarray, " k"], window: int
) -> tuple[Float64[np.ndarray, " m"], Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """The two nearest neighbours of every point that has two.

    Returns:
        log(r2 / r1), ascending; the time between each point and its first neighbour; the time between its two neighbours.
    """
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


def _count(logs: Float64[np.ndarray, " m"], discard: float) -> int:
    """The number of ratios that are used."""
    return math.floor((1 - discard) * logs.size)


def _shares(logs: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
    """For each ratio, the share of ratios that aren't larger."""
    return np.arange(1, logs.size + 1) / logs.size


def _slope(logs: Float64[np.ndarray, " m"], discard: float) -> float:
    """The slope of the least-squares line through the origin; NaN where all ratios used are 1."""
    used = logs[: _count(logs, discard)]
    size = float(used @ used)
    return float(-np.log1p(-_shares(logs)[: used.size]) @ used) / size if size > 0 else math.nan


def _jackknife(distances: Float[np.ndarray, "k k"], times: Int64[np.ndarray, " k"], window: int, discard: float) -> float:
    """Standard error from leaving out one tenth of the record after another, with a new search for neighbours.

    Single points can't be left out, because they share neighbours and successive records are similar.
    """
    slopes = []
    for block in np.array_split(np.arange(len(times)), BLOCKS):
        rest = np.delete(np.arange(len(times)), block)
        slopes.append(_slope(_neighbours(distances[np.ix_(rest, rest)], times[rest], window)[0], discard))
    return math.sqrt((BLOCKS - 1) * float(np.var(slopes)))
