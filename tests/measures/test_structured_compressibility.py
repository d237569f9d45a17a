"""Rows and singular values: best approximations, the spread, and the inequality that relates them; the PQ index."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dyncompress.measures import PqIndex, RowCompressibility, RowSpread, SpectralCompressibility, SpectralSpread
from dyncompress.measures.spread import top_spread
from tests.measures.observations import observation


def weight(seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.standard_t(3, (30, 8, 3, 3)) * generator.lognormal(0, 1, (30, 1, 1, 1))


@pytest.mark.parametrize(("keep", "power"), [(0.1, 1.0), (0.3, 2.0), (0.95, 1.0)])
def test_rows_by_the_definition(keep: float, power: float) -> None:
    norms = np.abs(weight()).reshape(30, -1).sum(1)
    kept = math.ceil(keep * 30 - 1e-9)
    lost = np.sort(norms)[: 30 - kept]
    wanted = ((lost**power).sum() / (norms**power).sum()) ** (1 / power)
    assert RowCompressibility(keep, power)(observation(weight())).value == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("keep", [0.1, 0.5, 1.0])
def test_singular_values_give_the_best_factorisation(keep: float) -> None:
    matrix = weight().reshape(30, -1)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    k = math.ceil(keep * 30 - 1e-9)
    error = np.linalg.norm(matrix - left[:, :k] * values[:k] @ right[:k]) / np.linalg.norm(matrix)
    assert SpectralCompressibility(keep)(observation(weight())).value == pytest.approx(error, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("keep", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_error_and_spread_bound_the_largest(keep: float, seed: int) -> None:
    """max <= (1 - eps) / (1 - beta) * sum / k, for rows (then ||W||_inf) and singular values (then ||W||_2)."""
    one, matrix = observation(weight(seed)), weight(seed).reshape(30, -1)
    k = math.ceil(keep * 30 - 1e-9)
    eps, beta = RowCompressibility(keep, 1.0)(one).value, RowSpread(keep)(one).value
    assert np.linalg.norm(matrix, np.inf) <= (1 - eps) / (1 - beta) * np.abs(matrix).sum() / k * (1 + 1e-9)
    eps, beta = SpectralCompressibility(keep, 1.0)(one).value, SpectralSpread(keep)(one).value
    assert np.linalg.norm(matrix, 2) <= (1 - eps) / (1 - beta) * np.linalg.norm(matrix, "nuc") / k * (1 + 1e-9)


def test_the_inequality_is_tight_where_the_dominant_rows_are_equal() -> None:
    rows = np.repeat([8.0, 1.0], [4, 16])[:, None] * np.ones((20, 5))
    one = observation(rows)
    assert RowSpread(0.2)(one).value == 0.0
    eps = RowCompressibility(0.2)(one).value
    assert eps == pytest.approx(16 / 48)
    assert (1 - eps) * rows.sum() / 4 == pytest.approx(40.0)


def test_spread_of_what_is_missing() -> None:
    assert top_spread(np.array([0.0, 0.0, 5.0]), 1.0).value == 1.0
    assert not top_spread(np.zeros(3), 0.5).valid
    assert top_spread(np.array([2.0, 3.0, 4.0]), 0.01).value == 0.0


def test_concentration_grows_as_error_falls() -> None:
    """Row-compressible layers have the larger norm at equal energy: why compression can cost robustness."""
    generator = np.random.default_rng(5)
    even = generator.standard_normal((40, 100))
    uneven = even * np.geomspace(1, 1e-3, 40)[:, None]
    uneven *= np.linalg.norm(even) / np.linalg.norm(uneven)
    assert RowCompressibility()(observation(uneven)).value < RowCompressibility()(observation(even)).value
    assert np.linalg.norm(uneven, np.inf) > 2 * np.linalg.norm(even, np.inf)
    assert np.linalg.norm(uneven, 2) > np.linalg.norm(even, 2)


def test_pq_index_of_known_laws_and_of_one_weight() -> None:
    generator = np.random.default_rng(6)
    gaussian, laplace = generator.standard_normal((500, 800)), generator.laplace(size=(500, 800))
    assert PqIndex()(observation(gaussian)).value == pytest.approx(1 - math.sqrt(2 / math.pi), abs=2e-3)
    assert PqIndex()(observation(laplace)).value == pytest.approx(1 - 1 / math.sqrt(2), abs=2e-3)
    assert PqIndex()(observation(np.eye(1, 100))).value == pytest.approx(1 - 100**-0.5)
    assert PqIndex()(observation(np.full((4, 4), -2.0))).value == 0.0


def test_pq_index_equals_its_formula_and_ignores_repetition() -> None:
    w = np.random.default_rng(7).standard_t(4, 60)
    wanted = 1 - 60 ** (1 / 2 - 1 / 0.5) * (np.abs(w) ** 0.5).sum() ** 2 / np.linalg.norm(w)
    assert PqIndex(0.5, 2.0)(observation(w.reshape(6, 10))).value == pytest.approx(wanted, rel=1e-9)
    assert PqIndex()(observation(np.tile(w, 3).reshape(18, 10))).value == pytest.approx(
        PqIndex()(observation(w.reshape(6, 10))).value
    )
