"""TwoNN on sets of known dimension, on paths whose neighbours are close in time, and its standard error."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dyncompress.measures import TwoNN
from dyncompress.measures.distances import euclidean_distances
from dyncompress.measures.two_nn import two_nn
from dyncompress.types import Estimate
from tests.measures.trajectories import autoregression, circle, cube, gaussian, observation_of, walk


def dimension(points: np.ndarray, window: int = 1) -> Estimate:
    return TwoNN(window=window)(observation_of(points))


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (lambda seed: cube(1000, 1, seed), 0.97),
        (lambda seed: cube(1000, 2, seed), 1.96),
        (lambda seed: cube(1000, 3, seed), 2.90),
        (lambda seed: cube(1000, 5, seed), 4.45),
        (lambda seed: cube(1000, 8, seed), 6.87),
        (lambda seed: cube(1000, 10, seed), 7.64),
        (lambda seed: cube(1000, 20, seed), 15.4),
        (lambda seed: circle(1000, seed=seed), 1.01),
        (lambda seed: gaussian(1000, 10, seed), 9.8),
        (lambda seed: gaussian(1000, 100, seed), 47),
        (lambda seed: walk(1000, 2, seed), 1.84),
        (lambda seed: walk(1000, 10, seed), 4.6),
        (lambda seed: walk(1000, 100, seed), 11.9),
    ],
    ids=["1", "2", "3", "5", "8", "10", "20", "circle", "N 10", "N 100", "walk 2", "walk 10", "walk 100"],
)
def test_sets_and_processes(draw: Callable[[int], np.ndarray], expected: float) -> None:
    values = np.array([two_nn(euclidean_distances(draw(seed))).value for seed in range(6)])
    # one estimate from 1 000 points has a relative standard deviation of 4 %
    assert values.mean() == pytest.approx(expected, rel=3 * 0.04 * np.sqrt(1 + 1 / 6))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("points", "expected"),
    [(gaussian(1000, 1000), 172), (walk(1000, 1000), 38), (autoregression(1000, 1000, 0.99), 37)],
    ids=["N 1000", "walk 1000", "memory .99"],
)
def test_a_thousand_dimensions(points: np.ndarray, expected: float) -> None:
    assert dimension(points).value == pytest.approx(expected, rel=0.2)


def naive(points: np.ndarray, window: int, discard: float) -> float:
    logs = []
    for i, point in enumerate(points):
        others = [np.linalg.norm(point - other) for j, other in enumerate(points) if abs(i - j) >= window]
        first, second = sorted(others)[:2]
        logs.append(np.log(second / first))
    logs = np.sort(logs)[: int((1 - discard) * len(points))]
    heights = -np.log(1 - np.arange(1, len(logs) + 1) / len(points))
    return np.linalg.lstsq(logs[:, None], heights, rcond=None)[0][0]


@pytest.mark.parametrize("window", [1, 2, 15])
@pytest.mark.parametrize("discard", [0.1, 0.5])
def test_equals_the_naive_one(window: int, discard: float) -> None:
    points = walk(80, 4)
    assert TwoNN(window, discard)(observation_of(points)).value == pytest.approx(naive(points, window, discard), rel=1e-9)


@pytest.mark.parametrize(("dimension_of_noise", "forgetful"), [(10, 9.5), (20, 16.5)])
def test_a_window_in_time_tells_the_set_from_the_path(dimension_of_noise: int, forgetful: float) -> None:
    path = autoregression(1000, dimension_of_noise, memory=0.8)
    plain, windowed = dimension(path), dimension(path, window=30)
    assert plain.value < 0.75 * forgetful
    assert not plain.valid
    assert windowed.value == pytest.approx(forgetful, rel=0.15)
    assert windowed.valid


def test_neighbours_on_another_stretch_of_a_smooth_path_are_told() -> None:
    drift = np.array([0.02, 0.0124]) + 0.02 * gaussian(1500, 2)
    angles = drift.cumsum(axis=0)
    torus = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    estimate = dimension(torus, window=60)
    assert estimate.value > 5
    assert not estimate.valid


@pytest.mark.parametrize("points", [walk(400, 20), autoregression(400, 50, 0.99)], ids=["walk", "memory .99"])
def test_neighbours_in_time_are_told(points: np.ndarray) -> None:
    estimate = dimension(points)
    assert not estimate.valid
    assert any("close in time: record less often" in note for note in estimate.notes)
    shuffled = dimension(points[np.random.default_rng(0).permutation(len(points))])
    assert shuffled.valid  # only the order differs
    assert shuffled.value == pytest.approx(estimate.value, rel=1e-9)


def test_records_that_forget_need_no_window() -> None:
    thinned = autoregression(20_000, 3, 0.9)[::50]
    estimate = dimension(thinned)
    assert estimate.valid
    assert estimate.value == pytest.approx(3, rel=0.2)


def test_standard_error_covers_the_spread_and_is_no_more_than_twice_as_large() -> None:
    estimates = [dimension(cube(400, 3, seed)) for seed in range(60)]
    spread = np.std([e.value for e in estimates], ddof=1)
    assert 0.9 * spread < np.mean([e.stderr for e in estimates]) < 2.2 * spread


def test_fit_tells_a_law_from_none() -> None:
    assert dimension(cube(1000, 3)).fit < 0.06
    spiral = 0.9 ** np.arange(300)[:, None] * gaussian(1, 5)  # all ratios are equal
    assert dimension(spiral).fit > 0.3


def test_scale_shift_and_rotation_do_not_matter() -> None:
    points = cube(200, 4)
    rotation = np.linalg.qr(gaussian(4, 4))[0]
    assert dimension(1e6 * points @ rotation - 3).value == pytest.approx(dimension(points).value, rel=1e-7)


def test_equal_iterates_are_merged_and_keep_their_time() -> None:
    points = cube(250, 2)
    stuttering = dimension(np.repeat(points, 3, axis=0))
    assert stuttering.value == pytest.approx(dimension(points).value, rel=1e-9)
    assert any("500 iterates equal" in note for note in stuttering.notes)


def test_too_few_iterates_or_too_long_a_window() -> None:
    assert np.isnan(dimension(cube(19, 2)).value)
    assert not dimension(cube(199, 2)).valid
    assert dimension(cube(200, 2)).valid
    assert "shorten the window" in dimension(cube(100, 2), window=95).notes[0]


def test_a_regular_grid_has_no_ratios() -> None:
    grid = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0)), axis=-1).reshape(-1, 2)
    assert np.isnan(dimension(grid).value)
