"""Fluctuation scale and signal-to-noise: unbiased under noise and drift, correct standard errors, the rule for bits."""

from __future__ import annotations

import numpy as np
import pytest

from dyncompress.errors import InvalidRequest
from dyncompress.measures import FluctuationScale, SignalToNoise, free_bits
from dyncompress.measures.fluctuation import fluctuation_variance
from dyncompress.types import Motion, Observation, WeightMotion
from tests.measures.observations import motion_of, moved, observation

WEIGHT = np.random.default_rng(0).standard_normal((100, 200))


def scale_of(motion: WeightMotion) -> float:
    return FluctuationScale()(observation(motion.mean, motion)).value


@pytest.mark.parametrize("count", [3, 5, 40])
def test_variance_is_unbiased_under_noise_and_drift(count: int) -> None:
    variance = fluctuation_variance(moved(WEIGHT, count=count, noise=0.1, drift=0.7))
    assert variance.mean() == pytest.approx(0.01, abs=4 * variance.std() / np.sqrt(variance.size))


def test_drift_does_not_count() -> None:
    assert scale_of(moved(WEIGHT, drift=5.0)) == pytest.approx(scale_of(moved(WEIGHT)), rel=1e-9)
    drifting = FluctuationScale()(observation(WEIGHT, moved(WEIGHT, drift=5.0)))
    assert any("drift" in note for note in drifting.notes)


def test_standard_error_bounds_the_spread_even_where_all_weights_move_together() -> None:
    generator = np.random.default_rng(1)
    estimates = []
    for _ in range(300):
        together = generator.standard_normal((50, 1, 1)) * np.ones((50, 3, 4))
        estimates.append(FluctuationScale()(observation(np.ones((3, 4)), motion_of(together))))
    spread = np.std([e.value for e in estimates], ddof=1)
    assert spread == pytest.approx(np.mean([e.stderr for e in estimates]), rel=0.2)
    independent = [scale_of(moved(WEIGHT[:10, :10], seed=seed)) for seed in range(50)]
    assert np.std(independent) < FluctuationScale()(observation(WEIGHT, moved(WEIGHT))).stderr


def test_scale_has_the_units_of_the_weights() -> None:
    motion = moved(WEIGHT)
    tripled = WeightMotion(3 * motion.mean, 9 * motion.variance, 9 * motion.increment_variance, motion.count)
    assert scale_of(tripled) == pytest.approx(3 * scale_of(motion), rel=1e-12)


def test_share_below_the_noise_by_hand() -> None:
    mean = np.array([[0.0, 0.5, 1.0, 2.0]])
    noise = np.full((1, 4), 2.0 * 50 / 49)  # s_i = 1 for 50 records
    one = Observation(observation(mean).layer, {Motion(): WeightMotion(mean, noise, noise, 50)})
    assert SignalToNoise(threshold=1.001)(one).value == 0.75
    assert SignalToNoise(threshold=0.3)(one).value == 0.5
    assert SignalToNoise(threshold=9.0)(one).value == 1.0


def test_share_below_the_noise_of_gaussian_weights() -> None:
    # weights N(0, 1), noise 0.1: P(|w| < 0.1) = 0.0797
    estimate = SignalToNoise()(observation(WEIGHT, moved(WEIGHT, count=200)))
    assert estimate.value == pytest.approx(0.0797, abs=5 * estimate.stderr)


@pytest.mark.parametrize("measure", [FluctuationScale(), SignalToNoise()])
def test_too_few_records(measure: FluctuationScale | SignalToNoise) -> None:
    two = WeightMotion(WEIGHT, np.ones_like(WEIGHT), np.full_like(WEIGHT, np.nan), 2)
    assert np.isnan(measure(observation(WEIGHT, two)).value)
    assert not measure(observation(WEIGHT, moved(WEIGHT, count=10))).valid
    assert measure(observation(WEIGHT, moved(WEIGHT, count=30))).valid


@pytest.mark.parametrize("tolerance", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("noise", [0.3, 0.02, 1e-4])
def test_free_bits_is_the_smallest_width_within_the_noise(noise: float, tolerance: float) -> None:
    bits = free_bits(2.0, noise, tolerance)
    error = lambda b: (2.0 / 2**b) ** 2 / 12  # noqa: E731
    assert error(bits) <= tolerance * noise**2
    assert bits == 1 or error(bits - 1) > tolerance * noise**2


def test_rounding_at_the_free_width_moves_weights_no_more_than_noise() -> None:
    weights = np.random.default_rng(2).uniform(-1, 1, 100_000)
    step = 2.0 / 2 ** free_bits(2.0, 0.01)
    assert np.sqrt(np.mean((np.round(weights / step) * step - weights) ** 2)) <= 0.01


@pytest.mark.parametrize("arguments", [(0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, -1.0), (float("nan"), 1.0, 1.0)])
def test_free_bits_refuses_what_has_no_answer(arguments: tuple[float, float, float]) -> None:
    with pytest.raises(InvalidRequest, match="must be positive"):
        free_bits(*arguments)
