"""Participation ratios with closed forms: equal directions, random walks, few records."""

from __future__ import annotations

import numpy as np
import pytest

from dyncompress.measures import ParticipationRatio
from dyncompress.measures.distances import centred_gram
from dyncompress.measures.participation_ratio import detrend, participation_ratio
from tests.measures.trajectories import gaussian, observation_of, walk


@pytest.mark.parametrize("window", [1, 2, 7])
def test_detrending_by_definition(window: int) -> None:
    points = 3 + walk(40, 5)
    expected = [points[t] - points[t - window : t].mean(axis=0) for t in range(window, 40)]
    np.testing.assert_allclose(detrend(points, window), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("window", [1, 5])
def test_equals_the_definition_by_the_covariance(window: int) -> None:
    points = walk(60, 8) * np.arange(1, 9)
    covariance = np.cov(detrend(points, window).T)
    expected = np.trace(covariance) ** 2 / np.trace(covariance @ covariance)
    assert ParticipationRatio(window)(observation_of(points)).value == pytest.approx(expected, rel=1e-10)


def test_k_directions_share_the_movement() -> None:
    directions = np.linalg.qr(gaussian(50, 4))[0]
    rows = np.kron(np.array([[1.0], [-1.0]]), directions.T)
    assert participation_ratio(rows).value == pytest.approx(4, rel=1e-12)
    assert participation_ratio(rows[[0, 4]]).value == pytest.approx(1, rel=1e-12)


def test_a_walk_looks_like_two_and_a_half_directions_before_detrending() -> None:
    # eigenvalues of a walk's covariance fall as 1 / k^2: the first is 6 / pi^2 of their sum, and PR = (pi^2 / 6)^2 / (pi^4 / 90)
    gram = centred_gram(walk(400, 4000))
    assert np.linalg.eigvalsh(gram)[-1] / np.trace(gram) == pytest.approx(6 / np.pi**2, rel=0.02)
    assert participation_ratio(walk(400, 4000)).value == pytest.approx(2.5, rel=0.03)
    assert ParticipationRatio()(observation_of(walk(400, 4000))).value > 300


@pytest.mark.parametrize(("count", "dimension"), [(300, 10), (300, 200), (1000, 200)])
def test_few_records_read_low_as_told(count: int, dimension: int) -> None:
    estimate = ParticipationRatio()(observation_of(walk(count + 1, dimension)))
    expected = count * dimension / (count + dimension)
    assert estimate.value == pytest.approx(expected, abs=5 * estimate.stderr)
    assert estimate.valid == (expected < count / 4)


def test_a_sketch_reads_low_as_told() -> None:
    generator = np.random.default_rng(3)
    steps = gaussian(500, 50) @ generator.standard_normal((50, 4096))
    sketch = (steps * generator.choice([-1.0, 1.0], 4096)).reshape(500, 32, 128).sum(axis=1)
    whole, sketched = participation_ratio(steps).value, participation_ratio(sketch).value
    assert sketched == pytest.approx(1 / (1 / whole + 1 / 128), rel=0.05)


def test_detrending_takes_a_drift_out() -> None:
    noise, drift = gaussian(400, 6), np.arange(400)[:, None] * gaussian(1, 6, seed=1)
    still, drifting = (ParticipationRatio()(observation_of(points)).value for points in (noise, noise + drift))
    assert drifting == pytest.approx(still, rel=1e-9)
    assert participation_ratio(noise + drift).value < 1.01


def test_standard_error_is_that_of_repetitions() -> None:
    scales = np.arange(1, 31) ** -0.5
    estimates = [participation_ratio(gaussian(300, 30, seed) * scales) for seed in range(100)]
    assert np.mean([e.stderr for e in estimates]) == pytest.approx(np.std([e.value for e in estimates], ddof=1), rel=0.3)


def test_scale_shift_and_rotation_do_not_matter() -> None:
    points = walk(100, 6) * np.arange(1, 7)
    rotation = np.linalg.qr(gaussian(6, 6))[0]
    plain, moved = (ParticipationRatio()(observation_of(p)).value for p in (points, 1e-6 * points @ rotation + 1))
    assert moved == pytest.approx(plain, rel=1e-6)


def test_too_few_or_still_iterates() -> None:
    assert np.isnan(ParticipationRatio(window=5)(observation_of(walk(7, 3))).value)
    assert not ParticipationRatio()(observation_of(walk(30, 2))).valid
    assert ParticipationRatio()(observation_of(walk(31, 2))).valid
    assert "didn't move" in ParticipationRatio()(observation_of(np.ones((40, 3)))).notes[0]
