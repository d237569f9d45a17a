"""Persistent-homology dimensions of sets and processes with known ones; their limits; the loss metric."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform

from dyncompress.measures import DataPhDimension, PhDimension
from dyncompress.measures.distances import euclidean_distances
from dyncompress.measures.ph_dimension import lifetime_slopes
from dyncompress.types import Estimate, ExampleLosses
from tests.measures.trajectories import autoregression, circle, contraction, cube, gaussian, levy_walk, observation_of, walk


def dimension(points: np.ndarray) -> Estimate:
    return PhDimension()(observation_of(points))


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (cube(1000, 1), 1.00),
        (cube(1000, 2), 1.96),
        (cube(1000, 3), 3.03),
        (cube(1000, 5), 4.63),
        (cube(1000, 8), 7.05),
        (cube(1000, 10), 8.17),
        (circle(1000), 1.02),
        (contraction(1000), 1.04),
    ],
    ids=["cube 1", "cube 2", "cube 3", "cube 5", "cube 8", "cube 10", "circle", "contraction"],
)
def test_sets_of_known_dimension(points: np.ndarray, expected: float) -> None:
    estimate = dimension(points)
    # the error for 1 000 points is 5 %, and grows with the dimension
    assert estimate.value == pytest.approx(expected, rel=0.03 + 0.015 * round(expected))
    assert estimate.valid
    assert estimate.n == 1000
    assert estimate.fit < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (lambda seed: cube(1000, 20, seed), 15.3),
        (lambda seed: gaussian(1000, 10, seed), 8.6),
        (lambda seed: gaussian(1000, 100, seed), 47),
        (lambda seed: walk(1000, 2, seed), 1.92),
        (lambda seed: walk(1000, 10, seed), 2.32),
        (lambda seed: walk(1000, 100, seed), 2.25),
        (lambda seed: walk(1000, 1000, seed), 2.26),
        (lambda seed: levy_walk(1000, 100, 1.2, seed), 1.41),
        (lambda seed: levy_walk(1000, 100, 1.5, seed), 1.88),
        (lambda seed: levy_walk(1000, 100, 1.8, seed), 2.12),
        (lambda seed: autoregression(1000, 1000, 0.99, seed), 2.30),
    ],
    ids=["cube 20", "N 10", "N 100", "walk 2", "walk 10", "walk 100", "walk 1000", "1.2", "1.5", "1.8", "memory .99"],
)
def test_processes(draw: Callable[[int], np.ndarray], expected: float) -> None:
    estimates = [dimension(draw(seed)) for seed in range(6)]
    values = np.array([e.value for e in estimates])
    # each expected value is from one draw and one schedule
    one_reading = np.hypot(values.std(ddof=1), np.mean([e.stderr for e in estimates]))
    assert values.mean() == pytest.approx(expected, abs=4 * one_reading)
    assert one_reading < 0.1 * expected


@pytest.mark.slow
def test_a_thousand_dimensions_are_out_of_reach() -> None:
    points = gaussian(1000, 1000)
    estimate = dimension(points)
    assert estimate.value == pytest.approx(50)
    assert not estimate.valid
    assert any("too high to estimate" in note for note in estimate.notes)
    slopes, _ = lifetime_slopes(euclidean_distances(points), np.arange(1000), alpha=1.0, repeats=10, seed=0)
    assert 150 < 1 / (1 - slopes.mean()) < 400  # one schedule gives 284


@pytest.mark.slow
def test_six_cubes_differ_as_schedules_do() -> None:
    values = [dimension(cube(1000, 5, seed)) for seed in range(6)]
    assert all(4.4 < v.value < 5.1 for v in values)
    assert 0.05 < np.mean([v.stderr for v in values]) < 0.25


def test_diffusion_reads_two_whatever_the_layer() -> None:
    for width in (50, 400):
        assert dimension(walk(500, width)).value == pytest.approx(2.25, abs=0.15)


def naive_dimension(points: np.ndarray, alpha: float, sizes: list[int], subsets: list[np.ndarray]) -> float:
    logs = []
    for subset in subsets:
        tree = minimum_spanning_tree(squareform(pdist(points[subset])))
        logs.append(np.log(np.sum(tree.data**alpha)))
    return alpha / (1 - np.polyfit(np.log(sizes), logs, 1)[0])


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_equals_the_naive_one_on_the_same_subsamples(alpha: float) -> None:
    points, sizes = cube(200, 3), list(range(40, 200, 10))
    slopes = []
    for repeat in range(3):
        generator = np.random.default_rng([7, repeat])
        subsets = [generator.choice(200, size, replace=False) for size in sizes]
        slopes.append(1 - alpha / naive_dimension(points, alpha, sizes, subsets))
    estimate = PhDimension(alpha=alpha, repeats=3, seed=7)(observation_of(points))
    assert estimate.value == pytest.approx(alpha / (1 - np.mean(slopes)), rel=1e-9)
    spread = np.std(alpha / (1 - np.array(slopes)), ddof=1)
    assert estimate.stderr == pytest.approx(np.hypot(spread, 7 / 200 * estimate.value), rel=1e-9)


@pytest.mark.parametrize("factor", [-2.0, 1e-9, 1e9])
def test_scale_shift_and_rotation_do_not_matter(factor: float) -> None:
    points = cube(120, 4)
    rotation = np.linalg.qr(gaussian(4, 4))[0]
    assert dimension(factor * points @ rotation + 1).value == pytest.approx(dimension(points).value, rel=1e-5)


def test_equal_iterates_are_merged() -> None:
    points = cube(250, 2)
    twice = dimension(np.concatenate([points, points[:50]]))
    assert twice.value == pytest.approx(dimension(points).value, rel=1e-12)
    assert twice.n == 250
    assert any("50 iterates equal" in note for note in twice.notes)


def test_too_few_iterates() -> None:
    assert np.isnan(dimension(cube(19, 2)).value)
    assert not dimension(cube(199, 2)).valid
    assert dimension(cube(200, 2)).valid


def test_nan_is_told() -> None:
    points = cube(50, 2)
    points[3, 1] = np.nan
    assert "NaN" in dimension(points).notes[0]


def test_losses_that_follow_the_weights_have_the_dimension_of_the_weights() -> None:
    time = np.random.default_rng(3).random((400, 1))
    losses = 5 + time * np.random.default_rng(4).uniform(-1, 1, 60)  # rho is |t - t'| times a constant
    result = DataPhDimension()(observation_of(losses, ExampleLosses()))
    assert result.value == pytest.approx(dimension(time).value, rel=1e-9)
    assert result.valid


def test_more_examples_change_the_loss_dimension_little() -> None:
    generator = np.random.default_rng(5)
    weights = walk(300, 10)
    losses = np.log1p(np.exp(weights @ generator.standard_normal((10, 2000)) / 10))
    few, many = (DataPhDimension()(observation_of(losses[:, :n], ExampleLosses())).value for n in (400, 2000))
    assert few == pytest.approx(many, rel=0.05)


def test_zero_one_losses_at_convergence_leave_nothing_to_measure() -> None:
    losses = np.zeros((300, 100))
    losses[::60, 0] = 1
    estimate = DataPhDimension()(observation_of(losses, ExampleLosses()))
    assert not estimate.valid
    assert "2 distinct iterates" in estimate.notes[0]


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")  # ripser warns of more columns than rows
def test_equals_ripser_on_the_same_subsamples() -> None:
    ripser = pytest.importorskip("ripser", reason="the oracle of persistent homology").ripser
    points, sizes = walk(300, 500), np.arange(60, 300, 15)
    result, slopes = PhDimension(repeats=2)(observation_of(points)), []
    for repeat in range(2):
        generator, logs = np.random.default_rng([0, repeat]), []
        for size in sizes:
            bars = ripser(points[generator.choice(300, size, replace=False)], maxdim=0)["dgms"][0][:, 1]
            logs.append(np.log(bars[np.isfinite(bars)].sum()))
        slopes.append(np.polyfit(np.log(sizes), logs, 1)[0])
    assert result.value == pytest.approx(1 / (1 - np.mean(slopes)), rel=1e-6)
