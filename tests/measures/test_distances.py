"""Distances: naive ones, precision far from the origin, exact zeros for equal points, sums over layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform

from dyncompress.measures import distances as distances_module
from dyncompress.measures.distances import centred_gram, distinct_points, euclidean_distances, loss_distances


def naive(points: np.ndarray) -> np.ndarray:
    return squareform(pdist(points.astype(np.float64)))


@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (40, 7), (30, 500)])
def test_equal_the_naive_ones(shape: tuple[int, int]) -> None:
    points = np.random.default_rng(0).standard_normal(shape)
    result = euclidean_distances(points)
    np.testing.assert_allclose(result, naive(points), rtol=1e-12, atol=0)
    assert np.array_equal(result, result.T)


def test_blocks_of_columns_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(1).standard_normal((20, 300))
    whole = centred_gram(points)
    monkeypatch.setattr(distances_module, "BLOCK_NUMBERS", 20 * 7)
    np.testing.assert_allclose(centred_gram(points), whole, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points_far_from_the_origin_keep_their_digits(dtype: type) -> None:
    generator = np.random.default_rng(2)
    points = (1e4 * generator.standard_normal(400) + generator.standard_normal((60, 400)) * 1e-2).astype(dtype)
    np.testing.assert_allclose(euclidean_distances(points), naive(points), rtol=1e-8, atol=0)


def test_a_contraction_keeps_its_smallest_distances() -> None:
    points = 0.97 ** np.arange(600)[:, None] * np.random.default_rng(3).standard_normal(50)
    result, exact = euclidean_distances(points), naive(points)
    np.testing.assert_allclose(result, exact, rtol=1e-6, atol=0)
    assert exact[exact > 0].min() < 1e-8 * exact.max()


def test_zero_exactly_where_points_are_equal() -> None:
    points = 1000 + np.random.default_rng(4).standard_normal((30, 90))
    points[[7, 12, 29]] = points[3]
    points[20] = points[3]
    points[20, 5] = np.nextafter(points[20, 5], np.inf)
    result = euclidean_distances(points)
    zeros = {tuple(pair) for pair in np.argwhere(np.triu(result == 0, 1)).tolist()}
    assert zeros == {(3, 7), (3, 12), (3, 29), (7, 12), (7, 29), (12, 29)}
    assert result[3, 20] == points[20, 5] - points[3, 5]
    assert distinct_points(result).tolist() == [i for i in range(30) if i not in (7, 12, 29)]


def test_inputs_are_left_alone_and_tensors_are_taken(device: str) -> None:
    points = np.random.default_rng(5).standard_normal((10, 4)).astype(np.float32)
    before = points.copy()
    result = euclidean_distances(points)
    assert np.array_equal(points, before)
    assert np.array_equal(result, euclidean_distances(torch.from_numpy(points).to(device)))


def test_squares_of_layers_add_up() -> None:
    points = np.random.default_rng(6).standard_normal((25, 60))
    parts = [euclidean_distances(part) ** 2 for part in np.split(points, [10, 35], axis=1)]
    np.testing.assert_allclose(np.sqrt(sum(parts)), euclidean_distances(points), rtol=1e-12)


def test_rotation_and_shift_do_not_matter() -> None:
    generator = np.random.default_rng(7)
    points = generator.standard_normal((40, 12))
    rotation = np.linalg.qr(generator.standard_normal((12, 12)))[0]
    np.testing.assert_allclose(euclidean_distances(points @ rotation + 3), euclidean_distances(points), rtol=1e-10)


def test_losses_by_definition() -> None:
    losses = np.random.default_rng(8).exponential(size=(15, 40))
    expected = np.abs(losses[:, None] - losses[None]).mean(axis=2)
    np.testing.assert_allclose(loss_distances(losses), expected, rtol=1e-12)
