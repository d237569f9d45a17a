"""Lifetime sums with closed forms, and their growth with the number of points."""

from __future__ import annotations

import numpy as np
import pytest

from dyncompress.measures import LifetimeSum
from dyncompress.measures.distances import loss_distances
from dyncompress.measures.lifetime_sum import lifetime_sum
from tests.measures.trajectories import cube, observation_of


def test_points_on_a_line_sum_to_its_length() -> None:
    line = np.random.default_rng(0).standard_normal((70, 1))
    assert LifetimeSum()(observation_of(line)).value == pytest.approx(np.ptp(line), rel=1e-12)
    gaps = np.diff(np.sort(line[:, 0]))
    assert LifetimeSum(alpha=2.5)(observation_of(line)).value == pytest.approx(np.sum(gaps**2.5), rel=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_a_grid_has_edges_of_one_length(alpha: float) -> None:
    grid = 0.5 * np.stack(np.meshgrid(np.arange(6), np.arange(7)), axis=-1).reshape(-1, 2)
    assert LifetimeSum(alpha)(observation_of(grid)).value == pytest.approx(41 * 0.5**alpha, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_grows_with_the_power_of_the_scale(alpha: float) -> None:
    points = cube(40, 3)
    plain, scaled = LifetimeSum(alpha)(observation_of(points)).value, LifetimeSum(alpha)(observation_of(-3 * points)).value
    assert scaled == pytest.approx(3**alpha * plain, rel=1e-12)


def test_grows_with_the_number_of_points_as_the_dimension_says() -> None:
    # Steele: E_1 of n points of a square grows as sqrt(n); four times the points, twice the length
    few, many = (np.mean([LifetimeSum()(observation_of(cube(n, 2, seed))).value for seed in range(5)]) for n in (250, 1000))
    assert many / few == pytest.approx(2, rel=0.05)


def test_any_pseudo_metric_will_do() -> None:
    losses = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 4.0], [0.0, 0.0]])
    assert lifetime_sum(loss_distances(losses)).value == 3.0  # 1 + 2 + 0


def test_what_does_not_move_or_is_alone_is_invalid() -> None:
    assert not LifetimeSum()(observation_of(np.ones((10, 3)))).valid
    assert np.isnan(LifetimeSum()(observation_of(np.ones((1, 3)))).value)
