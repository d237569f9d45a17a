"""The exact paired bound against enumeration of every sample."""

from __future__ import annotations

import time
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaincinv, gammaln, ndtri, xlogy

from dyncompress.certificates import paired
from dyncompress.certificates.paired import PairedIncrease, paired_upper
from dyncompress.errors import InvalidRequest


def tango_limits(worse: np.ndarray, better: np.ndarray, n: int, delta: float) -> np.ndarray:
    """Roots in D of the score statistic, its restricted estimate by maximising the likelihood instead of in closed form."""

    def score(difference: np.ndarray) -> np.ndarray:
        low, high = np.maximum(0.0, -difference), (1 - difference) / 2
        for _ in range(70):  # golden section on the concave likelihood of P(better)
            a, b = low + 0.382 * (high - low), low + 0.618 * (high - low)
            rest = n - worse - better
            values = [xlogy(worse, p + difference) + xlogy(better, p) + xlogy(rest, 1 - 2 * p - difference) for p in (a, b)]
            low, high = np.where(values[0] < values[1], a, low), np.where(values[0] < values[1], high, b)
        p = (low + high) / 2
        return (worse - better - n * difference) / np.sqrt(n * np.maximum(2 * p + difference * (1 - difference), 1e-300))

    low, high = (worse - better) / n, np.ones(len(worse))
    for _ in range(45):
        middle = (low + high) / 2
        above = score(middle) > ndtri(delta)
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return high


def samples(n: int) -> list[tuple[int, int]]:
    return [(b, g) for b in range(n + 1) for g in range(n + 1 - b)]


@cache
def limits(n: int, delta: float) -> dict[tuple[int, int], float]:
    points = samples(n)
    worse, better = np.array(points, dtype=float).T
    return dict(zip(points, tango_limits(worse, better, n, delta), strict=True))


def probabilities(points: list[tuple[int, int]], n: int, worse: np.ndarray, better: np.ndarray) -> np.ndarray:
    """P of each point `[points, m]` under each law `[m]`, from the trinomial formula."""
    b, g = (np.array(x)[:, None] for x in zip(*points, strict=True))
    rest = n - b - g
    coefficient = gammaln(n + 1) - gammaln(b + 1) - gammaln(g + 1) - gammaln(rest + 1)
    return np.exp(coefficient + xlogy(b, worse) + xlogy(g, better) + xlogy(rest, np.maximum(1 - worse - better, 0)))


def oracle(worse: int, better: int, n: int, delta: float, grid: int = 2000) -> float:
    """The bound by brute force: all samples, a fine grid of the nuisance, the definition."""
    order = limits(n, delta)
    region = [point for point in order if order[point] <= order[worse, better] + 1e-6]
    gamma, k = delta / 50, worse + better
    lowest = 0.0 if k == 0 else betaincinv(k, n - k + 1, gamma / 2)
    highest = 1.0 if k == n else betaincinv(k + 1, n - k, 1 - gamma / 2)

    def p(difference: float) -> float:
        if max(lowest, abs(difference)) > highest:
            return gamma if difference > 0 else 1.0
        psi = np.linspace(max(lowest, abs(difference)), highest, grid)
        return probabilities(region, n, (psi + difference) / 2, (psi - difference) / 2).sum(axis=0).max() + gamma

    low, high = -1.0, 1.0
    for _ in range(22):
        middle = (low + high) / 2
        low, high = (middle, high) if p(middle) > delta else (low, middle)
    return high


CASES = [(12, b, g) for b, g in [(0, 0), (1, 0), (0, 1), (3, 2), (2, 9), (6, 6), (0, 12), (11, 1), (11, 0), (0, 4)]]
CASES += [(20, 5, 5), (20, 1, 4), (30, 2, 1), (30, 10, 4)]


@pytest.mark.parametrize(("n", "worse", "better"), CASES)
def test_it_is_the_brute_force_bound_from_above(n, worse, better):
    ours, true = paired_upper(worse, better, n, 0.05), oracle(worse, better, n, 0.05)
    point = (worse - better) / n
    assert true - 1e-5 <= ours <= true + 3e-3 * max(true - point, 1 / n)


@pytest.mark.parametrize(("n", "delta"), [(8, 0.1), (14, 0.05)])
def test_exact_coverage_over_every_law(n, delta):
    points = samples(n)
    uppers = np.array([paired_upper(b, g, n, delta) for b, g in points])
    axis = np.linspace(0, 1, 61)
    worse, better = (x.ravel() for x in np.meshgrid(axis, axis))
    worse, better = worse[worse + better <= 1], better[worse + better <= 1]
    missed = uppers[:, None] < (worse - better)[None] - 1e-12
    failure = (probabilities(points, n, worse, better) * missed).sum(axis=0)
    assert failure.max() <= delta
    assert failure.max() > delta / 3  # and the bound isn't much too large


@pytest.mark.parametrize("n", [9, 25])
@pytest.mark.parametrize("limit", [-0.4, -0.05, 0.0, 0.02, 0.3, 0.7])
def test_regions_hold_all_points_below_and_less_harm_never_leaves(n, limit):
    quantile = float(ndtri(0.05))
    region = paired._region(limit, 0, 0, n, quantile)
    for b, g in samples(n):
        order = paired._score_limit(b, g, n, quantile)
        if order <= limit:
            assert b <= region[g]
        if b <= region[g]:
            assert b == 0 or b - 1 <= region[g]
            assert b + g == n or b <= region[g + 1]
            assert b == 0 or b - 1 <= region[g + 1]


@pytest.mark.parametrize("n", [1, 7, 30])
def test_the_score_falls_in_the_difference_and_rises_in_harm(n):
    """This property nests the regions; see docs/theory/certificates.md."""
    points = np.array(samples(n), dtype=float)
    for difference in np.linspace(-0.95, 0.95, 39):
        now = paired._score(points[:, 0], points[:, 1], n, difference)
        later = paired._score(points[:, 0], points[:, 1], n, difference + 0.02)
        assert np.all(later[now < 0] < now[now < 0] + 1e-9)
        more = paired._score(points[:, 0] + 1, points[:, 1], n, difference)
        allowed = (now < 0) & (points.sum(axis=1) < n)
        assert np.all(more[allowed] > now[allowed] - 1e-9)


@pytest.mark.parametrize("difference", [-0.3, 0.0, 0.01, 0.2])
def test_between_grid_points_nothing_is_above_the_guard(difference):
    n = 40
    region = paired._region(0.25, 0, 0, n, float(ndtri(0.05)))
    ends = np.sqrt(np.linspace(0, (1 - abs(difference)) / 2, 12))
    for left, right in pairwise(ends):
        inside = paired._probability(region, n, *paired._pair(difference, np.linspace(left, right, 200)))
        pair = (np.array([left]), np.array([right]))
        assert inside.max() <= max(inside[0], inside[-1]) + paired._guard(n, difference, *pair)[0] + 1e-8
        assert inside.max() <= paired._coupled(region, n, difference, pair)[0] + 1e-8


def test_probability_of_a_region_is_the_sum_over_its_points():
    n = 30
    region = paired._region(0.2, 0, 0, n, float(ndtri(0.05)))
    points = [(b, g) for b, g in samples(n) if b <= region[g]]
    worse, better = np.array([0.0, 0.1, 0.3, 0.5, 1.0, 0.0]), np.array([0.0, 0.1, 0.6, 0.0, 0.0, 1.0])
    np.testing.assert_allclose(
        paired._probability(region, n, worse, better), probabilities(points, n, worse, better).sum(axis=0), atol=1e-8
    )


@pytest.mark.parametrize(
    ("n", "worse", "better", "low", "high"), [(2000, 30, 20, 0.0110, 0.0113), (10_000, 150, 100, 0.0074, 0.0085)]
)
def test_it_is_tight_and_takes_seconds(n, worse, better, low, high):
    start = time.process_time()
    assert low < paired_upper(worse, better, n, 0.05) < high
    assert time.process_time() - start < 20


def test_without_one_difference_it_is_the_rule_of_three():
    assert paired_upper(0, 0, 1000, 0.05) == pytest.approx(1 - 0.05 ** (1 / 1000), rel=0.02)


@settings(max_examples=20)
@given(n=st.integers(2, 60), a=st.floats(0, 1), b=st.floats(0, 1), delta=st.sampled_from([0.01, 0.05, 0.2]))
def test_more_harm_never_lowers_it(n, a, b, delta):
    worse = int(a * (n - 1))
    better = int(b * (n - 1 - worse))
    slack = 2e-3  # the tolerance of the bisection
    now = paired_upper(worse, better, n, delta)
    assert (worse - better) / n <= now <= 1
    assert paired_upper(worse + 1, better, n, delta) >= now - slack


def test_above_the_limit_of_n_betting_takes_over_and_says_so():
    n = paired.EXACT_UP_TO + 1
    z = np.zeros(n)
    z[:100], z[100:150] = 1, -1
    actual = PairedIncrease()(z, 0.05)
    assert "betting" in actual.method
    assert actual.point < actual.upper < 0.002
    assert "Tango" in PairedIncrease()(z[: paired.EXACT_UP_TO], 0.05).method


@pytest.mark.parametrize(("worse", "better", "n"), [(5, 6, 10), (-1, 0, 10), (0, 0, 0)])
def test_impossible_counts_are_refused(worse, better, n):
    with pytest.raises(InvalidRequest):
        paired_upper(worse, better, n, 0.05)
