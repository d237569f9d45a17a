"""Rank correlations: known orders, scipy's, a naive loop, the textbook's formula, invariances, coverage of the intervals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import kendalltau, rankdata, spearmanr

from dyncompress.errors import InvalidRequest
from dyncompress.pipeline.selection.rank_correlation import agreement, granulated, interval, kendall, partial_spearman, resampled

ONE = np.ones


def grid(levels: int = 3, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray, dict[str, list[float]]]:
    """A full grid of three hyper-parameters, a gap that grows with them, and a measure that follows the gap with noise."""
    draw = np.random.default_rng(seed)
    cells = list(itertools.product(range(levels), repeat=3))
    gaps = np.array([a + 2 * b - c for a, b, c in cells]) + noise * draw.normal(size=len(cells))
    settings = {name: [float(cell[i]) for cell in cells] for i, name in enumerate(("rate", "batch", "depth"))}
    return gaps + noise * draw.normal(size=len(cells)), gaps, settings


# ---------------------------------------------------------------- known values
def test_kendall_of_orders_with_known_inversions() -> None:
    one = ONE((1, 4))
    up = np.arange(4.0)
    assert kendall(up, up, one)[0] == pytest.approx(1, abs=1e-15)
    assert kendall(up, -up, one)[0] == pytest.approx(-1, abs=1e-15)
    assert kendall(up, np.array([0.0, 2.0, 1.0, 3.0]), one)[0] == pytest.approx(4 / 6)  # one inversion of six pairs
    assert math.isnan(kendall(up, np.ones(4), one)[0])


@pytest.mark.parametrize("seed", range(5))
def test_kendall_is_scipys_with_ties(seed: int) -> None:
    draw = np.random.default_rng(seed)
    x, y = draw.integers(0, 6, 40).astype(float), draw.integers(0, 6, 40).astype(float)
    assert kendall(x, y, ONE((1, 40)))[0] == pytest.approx(kendalltau(x, y).statistic, abs=1e-12)


def naive_granulated(x: np.ndarray, y: np.ndarray, settings: dict[str, list[float]]) -> dict[str, float]:
    """Jiang et al., written down as they say it."""
    found = {}
    for axis, column in settings.items():
        others = [name for name in settings if name != axis]
        taus = []
        for levels in itertools.product(*(sorted(set(settings[name])) for name in others)):
            runs = [i for i in range(len(x)) if all(settings[n][i] == level for n, level in zip(others, levels, strict=True))]
            signs = [
                np.sign(x[a] - x[b]) * np.sign(y[a] - y[b]) for a, b in itertools.combinations(runs, 2) if column[a] != column[b]
            ]
            if signs:
                taus.append(np.mean(signs))
        found[axis] = float(np.mean(taus))
    return found


@pytest.mark.parametrize("missing", [0, 5])
@pytest.mark.parametrize("copies", [1, 2])
def test_granulated_is_the_naive_loop(missing: int, copies: int) -> None:
    x, y, settings = grid()
    draw = np.random.default_rng(1)
    kept = draw.permutation(np.tile(np.arange(len(x)), copies))[missing:]
    x, y = x[kept] + 0.3 * draw.normal(size=len(kept)), y[kept] + 0.3 * draw.normal(size=len(kept))
    settings = {name: [column[i] for i in kept] for name, column in settings.items()}
    expected = naive_granulated(x, y, settings)
    found = granulated(x, y, settings, ONE((1, len(x))))
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name][0] == pytest.approx(expected[name], abs=1e-12)
    assert agreement(x, y, settings, resamples=10).mean_granulated.value == pytest.approx(np.mean(list(expected.values())))


def test_what_follows_one_hyper_parameter_alone_is_found_out() -> None:
    """The measure is the rate: it orders the whole grid well, and says nothing at equal rates."""
    _, gaps, settings = grid(noise=0.0)
    gaps = gaps - np.array(settings["batch"])  # rate, batch and depth count alike
    found = agreement(np.array(settings["batch"]), gaps, settings, resamples=10)
    assert found.kendall.value > 0.4
    assert found.granulated["batch"].value == 1
    assert found.granulated["rate"].value == found.granulated["depth"].value == 0


def test_partial_spearman_is_the_textbooks_formula() -> None:
    draw = np.random.default_rng(0)
    z = draw.normal(size=50)
    x, y = z + draw.normal(size=50), z + draw.normal(size=50)
    xy, xz, yz = (spearmanr(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_spearman(x, y, {"z": list(z)}, ONE((1, 50)))[0] == pytest.approx(expected, abs=1e-12)


def test_words_are_indicators() -> None:
    """Residuals of ranks around their mean of each word."""
    draw = np.random.default_rng(0)
    words = [("adam", "sgd", "lion")[i % 3] for i in range(30)]
    x, y = draw.normal(size=(2, 30))
    left = []
    for ranks in (rankdata(x), rankdata(y)):
        means = {word: np.mean([r for r, w in zip(ranks, words, strict=True) if w == word]) for word in set(words)}
        left.append(ranks - np.array([means[word] for word in words]))
    expected = np.corrcoef(*left)[0, 1]
    assert partial_spearman(x, y, {"optimizer": words}, ONE((1, 30)))[0] == pytest.approx(expected, abs=1e-12)


def test_counts_are_runs_that_stand_there_so_often() -> None:
    """A resample with counts is the statistic of the repeated runs; for pairs, without those of a run and its copy."""
    draw = np.random.default_rng(0)
    x, y, z = draw.normal(size=(3, 12))
    counts = resampled(range(12), 1, np.random.default_rng(3))[1:]
    repeated = np.repeat(np.arange(12), counts[0].astype(int))
    found = partial_spearman(x, y, {"z": list(z)}, counts)[0]
    assert found == pytest.approx(partial_spearman(x[repeated], y[repeated], {"z": list(z[repeated])}, ONE((1, 12)))[0], abs=1e-9)
    pairs = [(a, b) for a, b in itertools.combinations(repeated, 2) if a != b]
    expected = np.mean([np.sign(x[a] - x[b]) * np.sign(y[a] - y[b]) for a, b in pairs])
    assert kendall(x, y, counts)[0] == pytest.approx(expected, abs=1e-12)


# ---------------------------------------------------------------- invariances
def test_monotone_transforms_change_nothing_and_a_sign_turns_all() -> None:
    x, y, settings = grid()
    found = agreement(x, y, settings, resamples=50)
    assert agreement(np.exp(3 * x), y**3, settings, resamples=50) == found
    turned = agreement(-x, y, settings, resamples=50)
    for mine, theirs in ((turned.kendall, found.negated().kendall), (turned.partial, found.negated().partial)):
        assert mine.value == pytest.approx(theirs.value, abs=1e-9)
        assert mine.low == pytest.approx(theirs.low, abs=1e-9)


def test_the_order_of_runs_changes_no_coefficient() -> None:
    x, y, settings = grid()
    order = np.random.default_rng(0).permutation(len(x))
    mixed = agreement(x[order], y[order], {k: [c[i] for i in order] for k, c in settings.items()}, resamples=5)
    found = agreement(x, y, settings, resamples=5)
    assert mixed.kendall.value == pytest.approx(found.kendall.value)
    assert mixed.mean_granulated.value == pytest.approx(found.mean_granulated.value)
    assert mixed.partial.value == pytest.approx(found.partial.value)


# ---------------------------------------------------------------- intervals
def test_intervals_cover() -> None:
    """tau of a bivariate normal is 2 / pi asin(rho); percentile intervals of 30 runs are a little short of 95 %."""
    draw = np.random.default_rng(0)
    rho, hits, trials = 0.6, 0, 200
    truth = 2 / math.pi * math.asin(rho)
    for _ in range(trials):
        x = draw.normal(size=30)
        y = rho * x + math.sqrt(1 - rho**2) * draw.normal(size=30)
        found = agreement(x, y, resamples=200).kendall
        assert found.low <= found.value <= found.high
        hits += found.low <= truth <= found.high
    assert 0.86 < hits / trials < 0.99


def test_runs_without_a_value_are_left_out() -> None:
    x, y, settings = grid()
    x[:4] = np.nan
    found = agreement(x, y, settings, resamples=5)
    kept = agreement(x[4:], y[4:], {name: column[4:] for name, column in settings.items()}, resamples=5)
    assert found == kept
    assert found.kendall.n == len(x) - 4


def test_what_does_not_exist_is_nan() -> None:
    none = agreement(np.full(5, np.nan), np.arange(5.0), {"rate": [1.0, 2.0, 3.0, 4.0, 5.0]}, resamples=5)
    assert math.isnan(none.kendall.value)
    two = agreement(np.array([1.0, 2.0]), np.array([1.0, 2.0]), resamples=5)
    assert math.isnan(two.kendall.value), "two runs are one pair"
    few = agreement(np.arange(4.0), np.arange(4.0), {k: list(np.random.default_rng(0).random(4)) for k in "abc"}, resamples=5)
    assert math.isnan(few.partial.value), "three hyper-parameters leave four runs no freedom"
    assert math.isnan(few.mean_granulated.value), "no two runs differ in one alone"
    same = agreement(np.arange(6.0), np.arange(6.0), {"rate": [0.1] * 6}, resamples=5)
    assert not same.granulated
    assert same.partial.value == pytest.approx(1)


def test_an_interval_takes_resamples_in_which_the_coefficient_exists() -> None:
    assert math.isnan(interval(np.array([0.5, np.nan, np.nan, 0.4]), 9).low)
    assert interval(np.array([0.5, 0.4, 0.4, 0.4]), 9).low == pytest.approx(0.4)


def test_runs_of_one_group_are_drawn_together() -> None:
    counts = resampled(["a", "b", "a", "c"], 50, np.random.default_rng(0))
    assert (counts[0] == 1).all()
    assert (counts[:, 0] == counts[:, 2]).all()
    assert (counts[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_copies_of_runs_make_no_interval_narrower() -> None:
    """Five seeds that change nothing are no more runs than one: cells are drawn, and the interval is that of the cells."""
    x, y, settings = grid()
    many = {name: column * 5 for name, column in settings.items()}
    few, all_of_them = agreement(x, y, settings), agreement(np.tile(x, 5), np.tile(y, 5), many)
    for one, five in ((few.kendall, all_of_them.kendall), (few.partial, all_of_them.partial)):
        assert five.high - five.low == pytest.approx(one.high - one.low, rel=0.15)
    alone = agreement(np.tile(x, 5), np.tile(y, 5), many, groups=range(5 * len(x))).kendall
    assert alone.high - alone.low < 0.7 * (few.kendall.high - few.kendall.low)


def test_the_interval_over_seeds_is_that_of_a_mean_of_signs() -> None:
    """Cells of two seeds each give 1 or -1: psi of the seed is their mean, its bootstrap spread sqrt((1 - psi^2) / cells)."""
    draw = np.random.default_rng(0)
    cells = 60
    x, y = draw.normal(size=(2, 2 * cells))
    settings = {"cell": [float(i // 2) for i in range(2 * cells)], "seed": [i % 2 for i in range(2 * cells)]}
    found = agreement(x, y, settings, groups=settings["cell"]).granulated["seed"]
    spread = (found.high - found.low) / (2 * 1.96)
    assert spread == pytest.approx(math.sqrt((1 - found.value**2) / cells), rel=0.1)


@pytest.mark.parametrize(
    ("gaps", "settings", "message"),
    [
        (np.arange(3.0), None, "4 values of the measure, but 3 of 'gaps'"),
        (np.arange(4.0), {"rate": [1.0]}, "but 1 of 'rate'"),
        (np.array([0, 1, np.nan, 2]), None, "gap 2 isn't a finite number"),
    ],
)
def test_what_does_not_belong_together_is_refused(gaps: np.ndarray, settings: dict[str, list[float]], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        agreement(np.arange(4.0), gaps, settings)
