"""Tail indices of steps and gradients: stable laws of known index, sketches, drift, and cases in which they fail."""

from __future__ import annotations

import numpy as np
import pytest

from dyncompress.measures import GradientNoiseTail, IncrementTail
from dyncompress.measures.increment_tail import row_index
from dyncompress.types import Gradients
from tests.measures.trajectories import gaussian, observation_of, stable


@pytest.mark.parametrize(("alpha", "expected"), [(1.3, 1.293), (1.5, 1.497), (1.8, 1.788), (2.0, 2.0)])
def test_elliptical_stable_steps(alpha: float, expected: float) -> None:
    steps = stable(10_000, 64, alpha) if alpha < 2 else gaussian(10_000, 64)
    estimate = IncrementTail()(observation_of(steps.cumsum(axis=0)))
    assert estimate.value == pytest.approx(expected, abs=0.05)
    assert estimate.value == pytest.approx(alpha, abs=max(4 * estimate.stderr, 0.02))
    assert estimate.valid


@pytest.mark.parametrize("dimension", [1, 3, 200])
def test_cauchy_steps(dimension: int) -> None:
    estimate = IncrementTail()(observation_of(stable(4000, dimension, 1.0).cumsum(axis=0)))
    assert estimate.value == pytest.approx(1, abs=4 * estimate.stderr)


def test_standard_error_covers_the_spread() -> None:
    estimates = [row_index(stable(1000, 8, 1.5, seed)) for seed in range(40)]
    spread = np.std([e.value for e in estimates], ddof=1)
    assert spread < 1.2 * np.mean([e.stderr for e in estimates])
    assert np.mean([e.value for e in estimates]) == pytest.approx(1.5, abs=0.04)


def test_a_sketch_keeps_the_index() -> None:
    steps = stable(2000, 256, 1.4)
    signs = np.random.default_rng(1).choice([-1.0, 1.0], 256)
    sketch = (steps * signs).reshape(2000, 8, 32).sum(axis=1)
    whole, sketched = row_index(steps), row_index(sketch)
    assert sketched.value == pytest.approx(whole.value, abs=2 * whole.stderr)


def test_drift_and_scale_do_not_matter() -> None:
    points = stable(1500, 5, 1.6).cumsum(axis=0)
    drifting = points + np.arange(1500)[:, None] * np.full(5, 2.0)
    plain = IncrementTail()(observation_of(points)).value
    assert IncrementTail()(observation_of(drifting)).value == pytest.approx(plain, rel=1e-6)
    assert IncrementTail()(observation_of(1e-9 * points)).value == pytest.approx(plain, rel=1e-6)


def test_correlated_steps_are_shuffled() -> None:
    points = gaussian(2001, 10)  # steps of noise around a point are correlated with the next ones
    assert IncrementTail()(observation_of(points)).value == pytest.approx(2, abs=0.1)


def test_a_changing_size_of_gaussian_steps_reads_as_a_heavy_tail() -> None:
    shrinking = gaussian(2000, 10) * np.geomspace(1, 0.01, 2000)[:, None]
    assert IncrementTail()(observation_of(shrinking.cumsum(axis=0))).value < 1.8


def test_still_or_few_iterates_and_nan() -> None:
    assert np.isnan(IncrementTail()(observation_of(np.ones((50, 3)))).value)
    assert np.isnan(IncrementTail()(observation_of(np.ones((1, 3)))).value)
    assert not IncrementTail()(observation_of(gaussian(100, 3))).valid
    broken = gaussian(100, 3)
    broken[5] = np.inf
    assert "NaN or infinity" in IncrementTail()(observation_of(broken)).notes[0]


def test_gradients_around_a_mean() -> None:
    noise = stable(2000, 12, 1.5)
    mean = np.full(12, 3.0)
    with_mean, without = (GradientNoiseTail()(observation_of(g, Gradients())).value for g in (noise + mean, noise))
    assert with_mean == pytest.approx(without, rel=1e-9)
    assert without == pytest.approx(1.5, abs=0.15)


def test_steps_without_a_gradient_are_left_out() -> None:
    noise = stable(1200, 6, 1.5)
    gaps = np.insert(noise, [0, 7, 7, 1100], np.nan, axis=0)
    assert GradientNoiseTail()(observation_of(gaps, Gradients())) == GradientNoiseTail()(observation_of(noise, Gradients()))
    nothing = GradientNoiseTail()(observation_of(np.full((50, 4), np.nan), Gradients()))
    assert not nothing.valid
    assert "no gradient" in nothing.notes[0]
