"""Single bounds: published values, closed forms, and properties of every bound of the index."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import bdtr

from dyncompress.certificates import BOUNDS
from dyncompress.certificates.betting import betting_lower, betting_upper, log_capital, stakes
from dyncompress.certificates.clopper_pearson import lower_limit, upper_limit
from dyncompress.certificates.hoeffding_bentkus import binary_p_value, hoeffding_bentkus_upper, p_value
from dyncompress.errors import InvalidRequest
from dyncompress.types import Bound

FREE_OF_ORDER = [name for name in BOUNDS if not name.startswith("betting")]


def zeros_and_ones(k: int, n: int) -> np.ndarray:
    return np.repeat([1.0, 0.0], [k, n - k])


@pytest.mark.parametrize(
    ("k", "n", "upper"),
    [(0, 100, 0.0295130), (0, 1000, 0.00299125), (10, 1000, 0.0169032), (100, 10_000, 0.0117972), (500, 10_000, 0.0537332)],
)
def test_clopper_pearson_has_its_published_values(k, n, upper):
    assert upper_limit(k, n, 0.05) == pytest.approx(upper, rel=5e-6)


@pytest.mark.parametrize(("k", "n", "delta"), [(0, 7, 0.1), (3, 20, 0.05), (19, 20, 0.01), (400, 1000, 0.2)])
def test_clopper_pearson_is_where_the_binomial_tails_are_delta(k, n, delta):
    assert bdtr(k, n, upper_limit(k, n, delta)) == pytest.approx(delta, rel=1e-9)
    if k:
        assert 1 - bdtr(k - 1, n, lower_limit(k, n, delta)) == pytest.approx(delta, rel=1e-9)


def test_clopper_pearson_ends():
    assert upper_limit(5, 5, 0.05) == 1
    assert lower_limit(0, 5, 0.05) == 0
    assert upper_limit(0, 5, 0.05) == pytest.approx(1 - 0.05**0.2)


@pytest.mark.parametrize(
    ("mean", "n", "alpha", "p"),
    [(0.05, 1000, 0.1, 1.6297e-8), (0.08, 1000, 0.1, 0.0478732), (0.095, 1000, 0.1, 0.868489), (0.01, 2000, 0.02, 9.00471e-4)],
)
def test_hoeffding_bentkus_has_its_published_values(mean, n, alpha, p):
    assert p_value(mean, n, alpha) == pytest.approx(p, rel=5e-5)
    assert binary_p_value(round(mean * n), n, alpha) < p  # 0-1 losses: without e


def test_hoeffding_bentkus_bound_inverts_its_p_value():
    upper = hoeffding_bentkus_upper(0.08, 1000, 0.05)
    assert p_value(0.08, 1000, upper) <= 0.05 < p_value(0.08, 1000, upper - 1e-6)


def naive_capital(x: np.ndarray, delta: float, mean: float) -> list[float]:
    """K_t as in the paper, one bet after the other."""
    capital, path = 1.0, []
    n = len(x)
    for i in range(n):
        mus = [(0.5 + sum(x[: j + 1])) / (2 + j) for j in range(i)]
        variance = (0.25 + sum((x[j] - mus[j]) ** 2 for j in range(i))) / (1 + i)
        nu = min(1.0, math.sqrt(2 * math.log(1 / delta) / (n * variance)))
        capital *= 1 - nu * (x[i] - mean)
        path.append(capital)
    return path


def test_betting_is_the_papers_game():
    x = np.random.default_rng(0).beta(1, 3, 40)
    ours = np.exp(log_capital(x, stakes(x, 0.1), 0.4))
    np.testing.assert_allclose(ours, naive_capital(x, 0.1, 0.4), rtol=1e-10)


def test_bets_never_look_ahead():
    x = np.random.default_rng(1).random(50)
    y = x.copy()
    y[30:] = 1 - y[30:]
    np.testing.assert_array_equal(stakes(x, 0.05)[:31], stakes(y, 0.05)[:31])


def test_betting_beats_hoeffding_at_low_variance_and_its_two_ends_mirror():
    x = np.random.default_rng(2).beta(2, 50, 10_000)
    upper = betting_upper(x, 0.05)
    assert x.mean() < upper < 0.0405 < x.mean() + math.sqrt(math.log(20) / 20_000)
    assert betting_lower(x, 0.05) == pytest.approx(1 - betting_upper(1 - x, 0.05))


# ---------------------------------------------------------------- properties of every bound
@pytest.fixture(params=list(BOUNDS))
def bound(request) -> Bound:
    return BOUNDS[request.param]()


@given(n=st.integers(1, 60), share=st.floats(0, 1), delta=st.floats(0.001, 0.5))
@pytest.mark.parametrize("name", list(BOUNDS))
def test_point_lies_between_the_ends_within_the_range(name, n, share, delta):
    actual = BOUNDS[name]()(zeros_and_ones(round(share * n), n), delta)
    assert -1 <= actual.lower <= actual.point + 1e-12
    assert actual.point <= actual.upper + 1e-12 <= 1 + 1e-9
    assert (actual.n, actual.delta) == (n, delta)
    assert actual.method


@pytest.mark.parametrize("name", FREE_OF_ORDER)  # betting depends on the order of the errors, not only on their number
def test_more_errors_never_lower_the_bound(name):
    uppers = [BOUNDS[name]()(zeros_and_ones(k, 40), 0.05).upper for k in range(41)]
    assert all(a <= b + 1e-9 for a, b in pairwise(uppers))


def test_smaller_delta_never_tightens(bound):
    x = zeros_and_ones(6, 80)
    uppers = [bound(x, delta).upper for delta in (0.3, 0.1, 0.05, 0.01, 0.001)]
    assert all(a < b for a, b in pairwise(uppers))


def test_more_examples_at_the_same_share_tighten(bound):
    uppers = [bound(zeros_and_ones(n // 20, n), 0.05).upper for n in (40, 100, 400, 2000)]
    assert all(a > b for a, b in pairwise(uppers))


@pytest.mark.parametrize("name", FREE_OF_ORDER)
def test_order_means_nothing(name):
    x = zeros_and_ones(7, 50)
    shuffled = np.random.default_rng(3).permutation(x)
    assert BOUNDS[name]()(x, 0.05) == BOUNDS[name]()(shuffled, 0.05)


def test_inputs_are_untouched_and_results_repeat(bound):
    x = zeros_and_ones(3, 30)
    before = x.copy()
    assert bound(x, 0.05) == bound(x, 0.05)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(
    ("losses", "word"),
    [
        (np.zeros(0), "shape"),
        (np.zeros((3, 2)), "shape"),
        (np.array([0.0, np.nan]), "nan"),
        (np.array([0.0, np.inf]), "inf"),
        (np.array([0.0, 1.5]), "1.5"),
        (np.array(["a", "b"]), "dtype"),
    ],
)
def test_bad_losses_are_one_clear_sentence(bound, losses, word):
    with pytest.raises(InvalidRequest, match=word):
        bound(losses, 0.05)


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, float("nan")])
def test_delta_must_be_a_probability(bound, delta):
    with pytest.raises(InvalidRequest, match="delta"):
        bound(zeros_and_ones(1, 10), delta)
