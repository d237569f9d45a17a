"""The pruned scan compared with the full one and with the package `powerlaw`, and on known laws."""

from __future__ import annotations

import warnings
from inspect import signature

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyncompress.measures.power_law import PowerLaw, fit_power_law
from tests.measures.observations import observation


def seeded_pareto() -> np.ndarray:
    return np.random.RandomState(0).pareto(2, 1000) + 1


def full_scan(values: np.ndarray) -> tuple[float, float, float, int]:
    """Every threshold, one after the other: alpha, threshold, distance, n."""
    values = np.sort(values)
    best = (0.0, 0.0, np.inf, 0)
    for threshold in np.unique(values)[:-1]:
        tail = values[values >= threshold]
        alpha = 1 + len(tail) / np.log(tail / threshold).sum()
        distance = np.abs(1 - (tail / threshold) ** (1 - alpha) - np.arange(len(tail)) / len(tail)).max()
        if distance < best[2] - 1e-12:
            best = (alpha, threshold, distance, len(tail))
    return best


def test_golden_fit_of_a_seeded_pareto_sample() -> None:
    fit = fit_power_law(seeded_pareto())
    assert fit is not None
    assert fit.alpha == pytest.approx(2.931288881, abs=1e-9)
    assert fit.threshold == pytest.approx(1.27034470, abs=1e-8)
    assert fit.distance == pytest.approx(0.02731945, abs=1e-8)
    assert fit.stderr == pytest.approx(0.0786482, abs=1e-7)


def test_golden_fit_of_a_hundred_values() -> None:
    fit = fit_power_law(np.random.RandomState(123).pareto(2.5, 100))
    assert fit is not None
    assert fit.alpha == pytest.approx(2.53578, abs=1e-5)


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(10, 300),
    law=st.sampled_from(["pareto", "normal", "exponential", "rounded", "uniform"]),
)
def test_equals_the_full_scan(seed: int, n: int, law: str) -> None:
    generator = np.random.default_rng(seed)
    values = {
        "pareto": lambda: generator.pareto(1.5, n) + 1,
        "normal": lambda: np.abs(generator.standard_normal(n)),
        "exponential": lambda: generator.exponential(size=n),
        "rounded": lambda: np.ceil(4 * generator.exponential(size=n)),
        "uniform": lambda: generator.uniform(0.5, 1, n),
    }[law]()
    fit = fit_power_law(values)
    if np.unique(values).size < 2:
        assert fit is None
        return
    assert fit is not None
    alpha, threshold, distance, tail = full_scan(values)
    assert fit.distance == pytest.approx(distance, abs=1e-11)
    assert (fit.alpha, fit.threshold, fit.n) == (pytest.approx(alpha, rel=1e-9), threshold, tail)


@pytest.mark.oracle
@pytest.mark.parametrize("law", ["pareto", "student", "normal"])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_package_powerlaw(law: str, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        powerlaw = pytest.importorskip("powerlaw")
    generator = np.random.default_rng(seed)
    draws = {
        "pareto": generator.pareto(2, 800) + 1,
        "student": generator.standard_t(3, 800),
        "normal": generator.normal(size=800),
    }
    values = np.abs(draws[law])
    # from version 2.0 on, the package needs a setting to allow exponents above 3
    unlimited = {"parameter_ranges": {"alpha": [1, None]}} if "parameter_ranges" in signature(powerlaw.Fit).parameters else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = powerlaw.Fit(values, verbose=0, **unlimited)
    ours = fit_power_law(values)
    assert ours is not None
    assert ours.alpha == pytest.approx(theirs.alpha, rel=1e-9)
    assert ours.threshold == theirs.xmin
    assert ours.distance == pytest.approx(theirs.D, abs=1e-9)
    assert ours.stderr == pytest.approx(theirs.sigma, rel=1e-9)


@pytest.mark.parametrize("alpha", [2.0, 3.0, 4.0])
def test_exact_pareto_quantiles(alpha: float) -> None:
    values = ((np.arange(2000) + 0.5) / 2000) ** (-1 / (alpha - 1))
    fit = fit_power_law(values)
    assert fit is not None
    assert fit.alpha == pytest.approx(alpha, abs=3 * fit.stderr)
    assert fit.distance < 0.01


def test_the_range_of_thresholds_is_obeyed() -> None:
    values = seeded_pareto()
    fit = fit_power_law(values, lowest=2.0, highest=3.0)
    assert fit is not None and 2.0 <= fit.threshold <= 3.0
    assert fit_power_law(values, lowest=1e9) is None


def test_a_limited_tail_gives_the_same_fit_where_it_holds_the_threshold() -> None:
    weights = seeded_pareto().reshape(50, 20)
    whole, limited = PowerLaw()(observation(weights)), PowerLaw(max_tail=700)(observation(weights))
    assert limited.value == pytest.approx(whole.value, rel=1e-12)
    assert any("700 largest of 1000" in note for note in limited.notes)


def test_gaussian_weights_are_marked_as_having_no_tail() -> None:
    estimate = PowerLaw()(observation(np.random.default_rng(0).standard_normal((200, 200))))
    assert estimate.value > 6
    assert not estimate.valid
