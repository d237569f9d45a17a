"""Marchenko-Pastur bulk and planted spikes: the edge, the visibility threshold, the position of a spike."""

from __future__ import annotations

import numpy as np
import pytest

from dyncompress.measures import SoftRank, Spikes
from dyncompress.measures.spikes import NoiseBulk
from dyncompress.types import Spectrum
from tests.measures.observations import observation
from tests.measures.test_esd_alpha import untrained

M, N = 512, 1024
Q = M / N


def planted(strength: float, count: int = 1, seed: int = 0) -> np.ndarray:
    """Noise of variance 1 / n with `count` orthogonal rank-one terms of one strength."""
    generator = np.random.default_rng(seed)
    left = np.linalg.qr(generator.standard_normal((M, count)))[0]
    right = np.linalg.qr(generator.standard_normal((N, count)))[0]
    return generator.standard_normal((M, N)) / np.sqrt(N) + strength * left @ right.T


def bulk_of(weight: np.ndarray) -> NoiseBulk:
    rows, columns = sorted(weight.shape)
    return NoiseBulk(rows, columns, float(np.median(observation(weight)[Spectrum("flat")][0])))


def test_the_edge_and_the_variance_of_noise() -> None:
    bulk = bulk_of(planted(0.0))
    assert bulk.variance == pytest.approx(1 / N, rel=0.01)
    assert bulk.edge == pytest.approx((1 + np.sqrt(Q)) ** 2, rel=0.01)
    assert bulk.edge == pytest.approx(2.914, abs=0.03)


@pytest.mark.parametrize(("strength", "place"), [(2.0, 5.625), (3.0, 10.56)])
def test_a_visible_spike_lies_where_the_theorem_says(strength: float, place: float) -> None:
    weight = planted(strength)
    top = observation(weight)[Spectrum("flat")][0][-1]
    formula = (1 + strength**2) * (Q + strength**2) / strength**2
    assert formula == pytest.approx(place, abs=0.01)
    assert top == pytest.approx(formula, rel=0.08)
    assert Spikes()(observation(weight)).value == 1


@pytest.mark.parametrize("count", [1, 5, 20])
def test_counts_planted_spikes(count: int) -> None:
    assert Spikes()(observation(planted(2.0, count))).value == count


def test_a_spike_below_the_threshold_is_invisible() -> None:
    assert Spikes()(observation(planted(0.6 * Q**0.25))).value == 0


def test_false_alarms_on_noise_are_rare() -> None:
    alarms = sum(Spikes()(observation(np.random.default_rng(seed).standard_normal((64, 100)))).value > 0 for seed in range(200))
    assert alarms <= 9  # 1 % expected, and the median estimate of the variance adds a little


def test_untrained_layers_have_no_spikes() -> None:
    for weight, soft_rank in zip(untrained(), (1.026, 1.014), strict=True):
        one = observation(weight)
        assert Spikes()(one).value == 0
        largest = one[Spectrum("flat")][0][-1]
        # the golden soft ranks fit the variance by another rule (a density estimate), hence the tolerance
        assert bulk_of(weight).edge / largest == pytest.approx(soft_rank, abs=0.03)


def test_the_law_of_the_bulk_fits_noise_and_not_a_flat_spectrum() -> None:
    assert Spikes()(observation(planted(0.0))).fit < 0.02
    assert Spikes()(observation(np.linalg.qr(np.random.default_rng(1).standard_normal((100, 100)))[0])).fit > 0.3


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0])
def test_median_of_the_law_by_quadrature(ratio: float) -> None:
    rows, columns = int(1000 * ratio), 1000
    low, high = 1 - np.sqrt(ratio), 1 + np.sqrt(ratio)
    root = np.linspace(low, high, 200_001)[1:-1]  # over singular values: the density of eigenvalues may be infinite at zero
    density = np.sqrt((high**2 - root**2) * (root**2 - low**2)) / (np.pi * ratio * root)
    share = np.cumsum(density) / density.sum()
    median = root[np.searchsorted(share, 0.5)] ** 2
    assert NoiseBulk(rows, columns, columns * float(median)).variance == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(("strength", "low", "high"), [(2.0, 4.86, 6.37), (3.0, 8.96, 12.16)])
def test_spikes_in_random_directions_spread_around_their_place(strength: float, low: float, high: float) -> None:
    """Five random directions aren't quite orthogonal, which splits the spikes."""
    generator = np.random.default_rng(2)
    left, right = generator.standard_normal((M, 5)) / np.sqrt(M), generator.standard_normal((N, 5)) / np.sqrt(N)
    one = observation(generator.standard_normal((M, N)) / np.sqrt(N) + strength * left @ right.T)
    top = one[Spectrum("flat")][0][-5:]
    assert Spikes()(one).value == 5
    assert top[0] == pytest.approx(low, rel=0.12) and top[-1] == pytest.approx(high, rel=0.12)


def test_the_largest_eigenvalue_of_noise_lies_at_the_edge() -> None:
    assert observation(planted(0.0))[Spectrum("flat")][0][-1] == pytest.approx(2.911, abs=0.05)


@pytest.mark.parametrize(("index", "soft_rank"), [(0, 1.026), (1, 1.014)])
def test_soft_rank_of_untrained_layers_and_of_a_spike(index: int, soft_rank: float) -> None:
    estimate = SoftRank()(observation(untrained()[index]))
    assert estimate.value == pytest.approx(soft_rank, abs=0.03)
    assert abs(estimate.value - 1) < 3 * estimate.stderr + 0.02
    planted_one = SoftRank()(observation(planted(3.0))).value
    assert planted_one == pytest.approx((1 + np.sqrt(Q)) ** 2 / ((1 + 9) * (Q + 9) / 9), rel=0.06)
    assert not SoftRank()(observation(np.random.default_rng(0).standard_normal((20, 30)))).valid
