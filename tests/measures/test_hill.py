"""Hill's estimator on Pareto laws, where its bias and variance are known."""

from __future__ import annotations

import numpy as np
import pytest

from dyncompress.measures.hill import Hill, hill_exponent
from tests.measures.observations import observation
from tests.measures.test_block_sum import stable


def pareto(alpha: float, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).pareto(alpha, n) + 1


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_pareto_within_three_standard_errors(alpha: float) -> None:
    estimates = [hill_exponent(pareto(alpha, 10_000, seed), 0.05) for seed in range(20)]
    values = np.array([e.value for e in estimates])
    deviation = alpha / np.sqrt(500)
    assert estimates[0].n == 500
    assert abs(values.mean() - alpha) < 3 * deviation / np.sqrt(20) + alpha / 500
    assert values.std(ddof=1) == pytest.approx(deviation, rel=0.5)
    assert np.mean([e.stderr for e in estimates]) == pytest.approx(deviation, rel=0.1)


def test_three_values_by_hand() -> None:
    # k = 2: (log 8 + log 4) / 2 - log 2 = 1.5 log 2
    estimate = hill_exponent(np.array([2.0, 8.0, 4.0, 1.0]), 0.5)
    assert estimate.value == pytest.approx(1 / (1.5 * np.log(2)), rel=1e-12)
    assert not estimate.valid  # two weights aren't a tail


def test_gaussian_weights_have_no_tail() -> None:
    estimate = Hill(0.05)(observation(np.random.default_rng(0).standard_normal((100, 100))))
    assert estimate.value == pytest.approx(6.0, abs=0.8)
    assert not estimate.valid
    assert any("no power-law tail" in note for note in estimate.notes)


def test_sign_does_not_matter_and_zeros_are_dropped() -> None:
    weights = pareto(2.0, 2500, 1)
    signs = np.random.default_rng(1).choice([-1, 1], 2500)
    plain = Hill()(observation(weights.reshape(50, 50)))
    padded = Hill()(observation(np.concatenate([weights * signs, np.zeros(500)]).reshape(60, 50)))
    assert padded.value == plain.value
    assert any("500 exact zeros" in note for note in padded.notes)


def test_ties_in_the_tail_are_flagged() -> None:
    weights = np.repeat(pareto(2.0, 100, 2), 25)
    estimate = hill_exponent(weights, 0.1)
    assert not estimate.valid
    assert any("ties" in note for note in estimate.notes)


def test_fit_is_small_for_a_pareto_and_large_for_a_step() -> None:
    assert hill_exponent(pareto(2.0, 10_000, 3), 0.05).fit < 0.08
    step = np.concatenate([np.full(9500, 1.0), np.linspace(5, 5.1, 500)])
    assert hill_exponent(step, 0.05).fit > 0.3


@pytest.mark.parametrize(("alpha", "golden", "spread"), [(1.0, 1.004, 0.044), (2.0, 2.016, 0.078), (3.0, 3.015, 0.104)])
def test_golden_means_of_pareto_laws(alpha: float, golden: float, spread: float) -> None:
    values = np.array([hill_exponent(pareto(alpha, 10_000, seed), 0.05).value for seed in range(50, 90)])
    assert values.mean() == pytest.approx(golden, abs=3 * alpha / np.sqrt(500) * (1 / 40 + 1 / 20) ** 0.5)
    assert values.std(ddof=1) == pytest.approx(spread, rel=0.5)


@pytest.mark.parametrize(("alpha", "golden"), [(1.5, 1.65), (1.8, 2.68), (2.0, 6.0)])
def test_stable_laws_near_two_read_far_too_high(alpha: float, golden: float) -> None:
    values = [hill_exponent(np.abs(stable(alpha, 10_000, seed)), 0.05).value for seed in range(10)]
    assert np.mean(values) == pytest.approx(golden, rel=0.06)
    assert np.mean(values) > alpha
