"""Prim's tree against scipy's, brute force, and persistent homology."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.sparse.csgraph import minimum_spanning_tree

from dyncompress.measures.distances import euclidean_distances
from dyncompress.measures.spanning_tree import tree_lengths


def cube(count: int, dimension: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((count, dimension))


def test_three_hundred_points_of_a_cube() -> None:
    assert tree_lengths(euclidean_distances(cube(300, 5, seed=1))).sum() == pytest.approx(76.795061, abs=5e-7)


@pytest.mark.parametrize(("count", "dimension"), [(2, 1), (50, 2), (200, 30)])
def test_equals_scipy(count: int, dimension: int) -> None:
    distances = euclidean_distances(cube(count, dimension, seed=2))
    np.testing.assert_allclose(np.sort(tree_lengths(distances)), np.sort(minimum_spanning_tree(distances).data), rtol=1e-15)


def test_no_tree_is_shorter() -> None:
    distances = euclidean_distances(cube(5, 2, seed=3))
    edges = list(itertools.combinations(range(5), 2))
    lengths = [sum(distances[e] for e in chosen) for chosen in itertools.combinations(edges, 4) if spans(chosen, 5)]
    assert tree_lengths(distances).sum() == pytest.approx(min(lengths), rel=1e-12)
    assert len(lengths) == 5**3  # Cayley


def spans(edges: tuple[tuple[int, int], ...], count: int) -> bool:
    reached = {0}
    for _ in range(count):
        reached |= {b for edge in edges for b in edge if reached & set(edge)}
    return len(reached) == count


def test_a_subset_is_the_tree_of_its_own_matrix() -> None:
    distances = euclidean_distances(cube(80, 3, seed=4))
    members = np.random.default_rng(5).choice(80, 33, replace=False)
    alone = tree_lengths(distances[np.ix_(members, members)])
    assert np.array_equal(tree_lengths(distances, members), alone)


def test_order_of_points_does_not_matter() -> None:
    distances = euclidean_distances(cube(60, 3, seed=6))
    order = np.random.default_rng(7).permutation(60)
    assert np.array_equal(np.sort(tree_lengths(distances, order)), np.sort(tree_lengths(distances)))


def test_equal_points_are_joined_by_edges_of_length_zero() -> None:
    points = cube(20, 2, seed=8)
    twice = tree_lengths(euclidean_distances(np.concatenate([points, points])))
    assert np.count_nonzero(twice == 0) == 20
    assert twice.sum() == pytest.approx(tree_lengths(euclidean_distances(points)).sum(), rel=1e-12)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_points_have_no_edge(count: int) -> None:
    assert tree_lengths(np.zeros((count, count))).size == 0


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")  # ripser warns of more columns than rows
@pytest.mark.parametrize(("count", "dimension"), [(300, 5), (200, 2000)])
def test_lifetimes_are_those_of_ripser(count: int, dimension: int) -> None:
    ripser = pytest.importorskip("ripser", reason="the oracle of persistent homology").ripser
    points = cube(count, dimension, seed=1)
    bars = ripser(points, maxdim=0)["dgms"][0]
    deaths = np.sort(bars[np.isfinite(bars[:, 1]), 1])
    np.testing.assert_allclose(np.sort(tree_lengths(euclidean_distances(points))), deaths, rtol=1e-6)
