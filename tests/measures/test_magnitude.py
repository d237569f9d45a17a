"""Magnitude: closed forms, limits, theorems, and one factor against a solve for each size."""

from __future__ import annotations

import numpy as np
import pytest

from dyncompress.errors import InvalidRequest
from dyncompress.measures import Magnitude, PositiveMagnitude
from dyncompress.measures.distances import euclidean_distances, loss_distances
from dyncompress.measures.magnitude import MagnitudeCurve, magnitude_curve
from tests.measures.trajectories import cube, observation_of, walk


def naive(distances: np.ndarray, scale: float) -> tuple[float, float]:
    weights = np.linalg.solve(np.exp(-scale * distances), np.ones(len(distances)))
    return weights.sum(), weights[weights > 0].sum()


def magnitude(points: np.ndarray, scale: float = 1.0) -> float:
    return Magnitude(scale)(observation_of(points)).value


@pytest.mark.parametrize(("distance", "expected"), [(0.1, 1.049958), (1.0, 1.462117), (5.0, 1.986614)])
def test_two_points(distance: float, expected: float) -> None:
    result = magnitude(np.array([[0.0], [distance]]))
    assert result == pytest.approx(expected, abs=5e-7)
    assert result == pytest.approx(2 / (1 + np.exp(-distance)), rel=1e-12)


@pytest.mark.parametrize(("distance", "expected"), [(0.1, 1.082403), (1.0, 2.023048)])
def test_five_equidistant_points(distance: float, expected: float) -> None:
    points = np.eye(5) * distance / np.sqrt(2)
    assert magnitude(points) == pytest.approx(expected, abs=5e-7)
    assert magnitude(points) == pytest.approx(5 / (1 + 4 * np.exp(-distance)), rel=1e-12)


@pytest.mark.parametrize("scale", [0.3, 1.0, 10.0])
def test_points_on_a_line(scale: float) -> None:
    line = np.random.default_rng(0).uniform(0, 4, (30, 1))
    gaps = np.diff(np.sort(line[:, 0]))
    expected = 1 + np.tanh(scale * gaps / 2).sum()
    assert magnitude(line, scale) == pytest.approx(expected, rel=1e-10)
    # on a line, all weights beta are positive
    assert PositiveMagnitude(scale)(observation_of(line)).value == pytest.approx(expected, rel=1e-10)


def test_limits_of_the_scale() -> None:
    points = cube(25, 3)
    assert magnitude(points, 1e-6) == pytest.approx(1, abs=1e-4)
    assert magnitude(points, 1e6) == pytest.approx(25, rel=1e-12)
    assert PositiveMagnitude(1e6)(observation_of(points)).value == pytest.approx(25, rel=1e-12)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_one_factor_gives_what_a_solve_for_each_size_gives(scale: float) -> None:
    distances, sizes = euclidean_distances(walk(120, 30)), [1, 2, 7, 40, 41, 119, 120]
    curve = magnitude_curve(distances, scale, sizes)
    solved = np.array([naive(distances[:k, :k], scale) for k in sizes])
    np.testing.assert_allclose(curve.magnitude, solved[:, 0], rtol=1e-9)
    np.testing.assert_allclose(curve.positive, solved[:, 1], rtol=1e-9)
    assert not curve.jittered


def test_inputs_are_left_alone() -> None:
    distances = euclidean_distances(cube(20, 2))
    before = distances.copy()
    magnitude_curve(distances, 1.0)
    assert np.array_equal(distances, before)


def test_more_points_of_a_euclidean_set_have_no_smaller_magnitude() -> None:
    # a theorem for spaces whose similarities are positive definite (Leinster 2013, corollary 2.4.4)
    curve = magnitude_curve(euclidean_distances(cube(60, 4)), 2.0, range(1, 61))
    assert (np.diff(curve.magnitude) >= 0).all()
    assert (curve.positive >= curve.magnitude * (1 - 1e-12)).all()
    assert (curve.magnitude <= curve.sizes * (1 + 1e-12)).all()


def test_order_scale_and_rotation() -> None:
    points = cube(50, 3)
    moved = points[np.random.default_rng(1).permutation(50)] @ np.linalg.qr(cube(3, 3))[0] + 5
    assert magnitude(moved, 2.0) == pytest.approx(magnitude(points, 2.0), rel=1e-9)
    assert magnitude(4 * points, 0.5) == pytest.approx(magnitude(points, 2.0), rel=1e-9)


def test_equal_iterates_are_merged() -> None:
    points = cube(30, 2)
    twice = Magnitude(1.0)(observation_of(np.concatenate([points, points])))
    assert twice.value == pytest.approx(magnitude(points), rel=1e-12)
    assert twice.n == 30
    assert any("30 iterates equal" in note for note in twice.notes)


def test_losses_have_a_magnitude_too() -> None:
    distances = loss_distances(np.random.default_rng(2).exponential(size=(40, 100)))
    curve: MagnitudeCurve = magnitude_curve(distances, 10.0)
    assert curve.magnitude[0] == pytest.approx(naive(distances, 10.0)[0], rel=1e-9)


def test_a_singular_matrix_is_told() -> None:
    estimate = Magnitude(1e-15)(observation_of(cube(30, 2)))
    assert not estimate.valid
    assert any("singular" in note for note in estimate.notes)
    assert estimate.value == pytest.approx(1, rel=1e-3)


def test_what_is_no_metric_of_negative_type_is_refused() -> None:
    far = 1 - np.eye(4)
    far[0, 1] = far[1, 0] = 50.0  # no triangle inequality
    with pytest.raises(InvalidRequest, match="no Cholesky factor"):
        magnitude_curve(far, 0.1)


@pytest.mark.parametrize("sizes", [[], [0], [4], [-1, 2]])
def test_senseless_sizes_are_refused(sizes: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="sizes"):
        magnitude_curve(1 - np.eye(3), 1.0, sizes)


def test_no_or_still_iterates() -> None:
    assert np.isnan(magnitude(np.ones((0, 3))))
    still = Magnitude()(observation_of(np.ones((5, 3))))
    assert still.value == 1.0
    assert not still.valid
