"""Entropies and ranks of spectra whose values are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dyncompress.measures import DetRank, EffectiveRank, SpectralEntropy, StableRank
from tests.measures.observations import observation


def with_singular_values(values: list[float], columns: int = 40) -> np.ndarray:
    generator = np.random.default_rng(0)
    left = np.linalg.qr(generator.standard_normal((len(values), len(values))))[0]
    right = np.linalg.qr(generator.standard_normal((columns, len(values))))[0]
    return left @ np.diag(values) @ right.T


def test_a_flat_spectrum_has_entropy_one_and_whole_rank() -> None:
    one = observation(with_singular_values([2.0] * 12))
    assert SpectralEntropy()(one).value == pytest.approx(1.0)
    assert EffectiveRank()(one).value == pytest.approx(12.0)
    assert DetRank()(one).value == 12


def test_two_values_by_hand() -> None:
    # eigenvalues 9 and 1: p = .9, .1; singular values 3 and 1: p = .75, .25
    one = observation(with_singular_values([3.0, 1.0]))
    assert SpectralEntropy()(one).value == pytest.approx(-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2))
    assert EffectiveRank()(one).value == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))
    assert DetRank()(one).value == 2  # scaled to mean 1: 1.8, and 1.8 * 0.2 < 1


def test_missing_rank_counts_for_nothing() -> None:
    whole, lacking = (
        observation(with_singular_values([3.0, 2.0, 1.0])),
        observation(with_singular_values([3.0, 2.0, 1.0, 0.0, 0.0])),
    )
    for measure in (SpectralEntropy(), EffectiveRank()):
        assert measure(lacking).value == pytest.approx(measure(whole).value)
        assert measure(lacking).n == 3


def test_one_direction() -> None:
    one = observation(np.outer(np.arange(1.0, 6.0), np.arange(1.0, 8.0)))
    assert EffectiveRank()(one).value == pytest.approx(1.0)
    assert DetRank()(one).value == 1
    assert not SpectralEntropy()(one).valid


def test_the_product_is_followed_from_the_largest() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        values = generator.lognormal(0, 1.5, 30)
        scaled = np.sort(values)[::-1] / values.mean()
        wanted = next(k for k in range(1, 31) if np.prod(scaled[:k]) < 1)
        assert DetRank()(observation(with_singular_values(list(np.sqrt(values))))).value == wanted


def test_ranks_are_ordered() -> None:
    """exp of an entropy of sigma lies above ||W||_F^2 / ||W||_2^2 (order infinity of sigma^2) and below the rank."""
    one = observation(np.random.default_rng(2).standard_t(3, (50, 60)))
    assert 1 <= StableRank()(one).value <= EffectiveRank()(one).value <= 50
