"""Exact upper bound on a paired difference of two error rates, with no order, no normal approximation and no variance bound.

Z = l(file) - l(original) is in {-1, 0, 1}; B counts the 1s (worse), G counts the -1s (better), and n counts the examples. The
result is an upper bound on D = P(Z = 1) - P(Z = -1).

Sample points are ordered by Tango's upper limit U(b, g), the D at which his score statistic
    T(b, g; D) = (b - g - n D) / sqrt(n (2 p + D (1 - D))),  p the likelihood's estimate of P(Z = -1) given D,
falls to the normal quantile z of delta. The observed point defines the region R of all points whose limit isn't above its own,
R = {(b, g): T(b, g; U_observed) <= z}, closed under improving an example (Z from 1 to 0, or from 0 to -1).

The p-value is p(D) = sup over psi in C of P_{D, psi}(R), plus gamma (1 where D < -max C). psi = P(Z != 0) is the nuisance and C
is its two-sided Clopper-Pearson interval at 1 - gamma (Berger and Boos 1994), gamma = delta / 50.

The bound is sup {D: p(D) > delta}. It is valid because P(p(D) <= delta) <= delta at the true (D, psi). p decreases in D: at
fixed psi, raising D turns some -1 into 1, and that can only move a point out of R. Therefore bisection computes the supremum,
and testing the boundary is enough. Proofs: docs/theory/certificates.md.

Between grid points of the nuisance, the supremum is bounded from above (see `_guard` and `_coupled`).

Source: Tango (1998), Statistics in Medicine 17; Buehler (1957), JASA 52 (ordering by a limit); Berger and Boos (1994), JASA 89.
Departure: in the usual test the order changes with D, and its p-value need not be monotone in D. The p-value of a fixed region
is monotone.
Every constant is computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, bdtrc, betaincc, gammaln, ndtri, xlog1py, xlogy

from dyncompress.certificates.betting import betting_upper
from dyncompress.certificates.clopper_pearson import lower_limit, upper_limit
from dyncompress.certificates.losses import check_counts, check_delta, check_losses
from dyncompress.types import Interval
from dyncompress.types.arrays import Float64, Real

EXACT_UP_TO = 100_000  # examples (some seconds); above it, the betting bound. The choice depends on n only, never on the losses
_GAMMA_SHARE = 1 / 50  # share of delta for the interval of the nuisance: 0.001 at delta = 0.05
_ROUNDING = 1e-9  # added to every probability: its floating-point error
_MOST_INTERVALS = 4096  # intervals of the nuisance at once, which bounds memory; beyond them the bound is looser but valid
_ORDER_LEVEL = 0.25  # largest level at which points are ordered: the order needs a quantile below the median
_TOLERANCE = 1e-3  # share of the bound's distance from the estimate; the bound is too large by at most this


def paired_upper(worse: int, better: int, n: int, delta: float) -> float:
    """Upper bound on P(Z = 1) - P(Z = -1) from counts, at confidence 1 - delta.

    Args:
        worse: number of examples that the file gets wrong and the original gets right.
        better: number of examples that the original gets wrong and the file gets right.
        n: number of independent examples.
        delta: probability of failure.

    Returns:
        The bound, in [-1, 1].

    Raises:
        InvalidRequest: the counts are impossible, or delta isn't a probability.

    Cost: about 30 grids of the nuisance, each of (100 points) x (13 standard deviations of `better`) incomplete beta functions.

    Example:
        >>> round(paired_upper(0, 0, 1000, 0.05), 3)
        0.003
    """
    check_counts(n, worse, better)
    check_delta(delta)
    if worse == n:
        return 1.0
    quantile = float(ndtri(min(delta, _ORDER_LEVEL)))
    limit = _score_limit(worse, better, n, quantile)
    region = _region(limit, worse, better, n, quantile)
    gamma = delta * _GAMMA_SHARE
    total = worse + better
    psi = (lower_limit(total, n, gamma / 2), upper_limit(total, n, gamma / 2))
    point = (worse - better) / n
    low, high = _bracket(region, n, psi, delta - gamma, (point, limit))
    while high - low > _TOLERANCE * max(high - point, 1 / n):
        middle = (low + high) / 2
        low, high = (low, middle) if _below(region, n, middle, psi, delta - gamma) else (middle, high)
    return float(high)


def _bracket(
    region: Float64[np.ndarray, " better"], n: int, psi: tuple[float, float], level: float, start: tuple[float, float]
) -> tuple[float, float]:
    """Two differences D around the bound: p is above the level at the first, and not above it at the second."""
    point, limit = start
    step = (limit - point) / 16 + 1e-12
    low, high = limit, limit
    while high < 1 and not _below(region, n, high, psi, level):
        low, high, step = high, min(high + step, 1.0), 2 * step
    if low < high:
        return low, high
    while low > -1 and _below(region, n, low, psi, level):
        low, high, step = max(low - step, -1.0), low, 2 * step
    return low, high


def _score(
    worse: Real[np.ndarray, " points"], better: Real[np.ndarray, " points"], n: int, difference: float
) -> Float64[np.ndarray, " points"]:
    """Tango's score statistic, one value for each sample point."""
    b = -worse - better + (2 * n - worse + better) * difference
    c = -better * difference * (1 - difference)
    p = (np.sqrt(np.maximum(b * b - 8 * n * c, 0)) - b) / (4 * n)
    variance = n * np.maximum(2 * p + difference * (1 - difference), 1e-300)
    return (worse - better - n * difference) / np.sqrt(variance)


def _score_limit(worse: int, better: int, n: int, quantile: float) -> float:
    """Tango's upper limit: the difference at which the score falls to the quantile."""
    low, high = (worse - better) / n, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        above = _score(np.array([worse]), np.array([better]), n, middle)[0] > quantile
        low, high = (middle, high) if above else (low, middle)
    return high


def _region(limit: float, worse: int, better: int, n: int, quantile: float) -> Float64[np.ndarray, " {n}+1"]:
    """The region `[n + 1]`: for each count of better examples, the largest count of worse ones in it; -1 where there is none."""
    g = np.arange(n + 1, dtype=float)
    low, high = np.full(n + 1, -1.0), n - g
    while np.any(low < high):
        middle = np.ceil((low + high) / 2)
        inside = _score(middle, g, n, limit) <= quantile + 1e-9  # the observed point lies on the edge
        low, high = np.where(inside, middle, low), np.where(inside, high, middle - 1)
    low[better] = max(low[better], worse)
    return np.minimum(np.maximum.accumulate(low), n - g)  # closed: one more better example stays in the region


def _probability(
    region: Float64[np.ndarray, " better"], n: int, p_worse: Float64[np.ndarray, " m"], p_better: Float64[np.ndarray, " m"]
) -> Float64[np.ndarray, " m"]:
    """Upper bound on P(region), tight to 1e-8, for each pair of probabilities `[m]`.

    It sums over a window of the count of better examples and adds the whole probability outside of the window.
    """
    spread = 6.5 * np.sqrt(n * p_better * (1 - p_better)) + 12
    first = np.clip(np.floor(n * p_better - spread), 0, n)
    last = np.clip(np.ceil(n * p_better + spread), 0, n)
    g = first[:, None] + np.arange(int((last - first).max()) + 1)
    p, q = p_better[:, None], np.clip(p_worse / np.maximum(1 - p_better, 1e-300), 0, 1)[:, None]
    inside = g <= last[:, None]
    g = np.minimum(g, n)
    log_mass = gammaln(n + 1) - gammaln(g + 1) - gammaln(n - g + 1) + xlogy(g, p) + xlog1py(n - g, -p)
    mass = np.where(inside, np.exp(log_mass), 0)
    k, m = region[g.astype(int)], n - g
    partial = (k >= 0) & (k < m)
    conditional = np.where(partial, betaincc(np.where(partial, k + 1, 1), np.where(partial, m - k, 1), q), k >= m)
    outside = np.where(first > 0, bdtr(first - 1, n, p_better), 0) + bdtrc(last, n, p_better)
    return (mass * conditional).sum(axis=1) + outside + _ROUNDING


def _pair(difference: float, root: Float64[np.ndarray, "*m"]) -> tuple[Float64[np.ndarray, "*m"], Float64[np.ndarray, "*m"]]:
    """`(P(Z = 1), P(Z = -1))`, from their difference and the square root of the smaller of the two."""
    smaller = root * root
    return (smaller + difference, smaller) if difference >= 0 else (smaller, smaller - difference)


def _guard(
    n: int, difference: float, left: Float64[np.ndarray, " m"], right: Float64[np.ndarray, " m"]
) -> Float64[np.ndarray, " m"]:
    """How far P(region) can rise inside an interval above its values at both ends.

    The bound uses the second derivative in u, the square root of the smaller probability.

    d2P/du2 = E[1_R X] with X = S^2 + S', S the score in u and E[X] = 0, so that it is at most E|X| / 2; with s the smaller and
    r = P(Z = 0), E[S^2] <= n (8 + 16 s / r) and E|S'| <= n (8 + 16 s / r). An arc of width h lies at most h^2 / 8 times that
    above its ends.
    """
    smaller = right * right
    rest = np.maximum(1 - abs(difference) - 2 * smaller, 1e-300)
    return (right - left) ** 2 * n * (1 + 2 * smaller / rest)


def _coupled(
    region: Float64[np.ndarray, " better"],
    n: int,
    difference: float,
    ends: tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]],
) -> Float64[np.ndarray, " m"]:
    """P(region) at an interval's smallest P(Z = 1) and largest P(Z = -1): no point of the interval has a larger P(region)."""
    worse, _ = _pair(difference, ends[0])
    _, better = _pair(difference, ends[1])
    return _probability(region, n, worse, better)


def _below(region: Float64[np.ndarray, " better"], n: int, difference: float, psi: tuple[float, float], level: float) -> bool:
    """Whether sup over psi of P(region) is proved to be at most `level`; False also where refinement doesn't decide it."""
    lowest, highest = max(psi[0], abs(difference)), psi[1]
    if highest < lowest:
        return difference > 0  # p is 1 below -max C, so that p decreases in D
    ends = np.sqrt((np.array([lowest, highest]) - abs(difference)) / 2)
    nodes = np.linspace(ends[0], ends[1], 33)
    values = _probability(region, n, *_pair(difference, nodes))
    left, right = nodes[:-1], nodes[1:]
    top = np.maximum(values[:-1], values[1:])
    for _ in range(6):
        if np.any(top > level):
            return False
        open_ = top + _guard(n, difference, left, right) > level
        left, right, top = left[open_], right[open_], top[open_]
        if len(left):
            open_ = _coupled(region, n, difference, (left, right)) > level
            left, right, top = left[open_], right[open_], top[open_]
        if not len(left) or len(left) > _MOST_INTERVALS:
            return not len(left)
        cuts = left[:, None] + (right - left)[:, None] * np.linspace(0, 1, 5)
        values = _probability(region, n, *_pair(difference, cuts.ravel())).reshape(cuts.shape)
        left, right = cuts[:, :-1].ravel(), cuts[:, 1:].ravel()
        top = np.maximum(values[:, :-1], values[:, 1:]).ravel()
    return False


@dataclass(frozen=True)
class PairedIncrease:
    """Upper bound on the increase of an error rate, from paired differences in {-1, 0, 1}; it doesn't depend on their order."""

    def __call__(self, losses: np.ndarray, delta: float) -> Interval:
        """Bound the mean of differences `[n]` in {-1, 0, 1} from above; the lower end is -1.

        Raises:
            InvalidRequest: a difference isn't -1, 0 or 1.
        """
        differences = check_losses(losses, values=(-1, 0, 1))
        n = len(differences)
        worse, better = int((differences > 0).sum()), int((differences < 0).sum())
        point = (worse - better) / n
        if n > EXACT_UP_TO:
            upper = 2 * betting_upper((differences + 1) / 2, delta) - 1
            return Interval(point, -1.0, upper, delta, n, f"betting on (Z + 1) / 2 (n above {EXACT_UP_TO}), fixed order")
        upper = paired_upper(worse, better, n, delta)
        return Interval(point, -1.0, upper, delta, n, "exact paired bound, ordered by Tango's limit")
