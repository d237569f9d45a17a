"""The error of keeping the largest weights: closed forms for Gaussian and Laplace laws, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf, erfinv

from dyncompress.measures import Compressibility
from dyncompress.measures.compressibility import relative_pruning_error
from tests.measures.observations import observation
from tests.measures.test_block_sum import stable

KEPT = (0.5, 0.3, 0.1, 0.05)
GAUSSIAN, LAPLACE = (0.2671, 0.4655, 0.7488, 0.8491), (0.1825, 0.3484, 0.6361, 0.7588)


def gaussian_error(kappa: float) -> float:
    t = np.sqrt(2) * erfinv(1 - kappa)
    return float(np.sqrt(erf(t / np.sqrt(2)) - 2 * t * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)))


def laplace_error(kappa: float) -> float:
    level = -np.log(kappa)
    return float(np.sqrt(1 - kappa * (1 + level + level**2 / 2)))


@pytest.mark.parametrize(("kappa", "gaussian", "laplace"), [*zip(KEPT, GAUSSIAN, LAPLACE, strict=True)])
def test_closed_forms(kappa: float, gaussian: float, laplace: float) -> None:
    assert gaussian_error(kappa) == pytest.approx(gaussian, abs=5e-5)
    assert laplace_error(kappa) == pytest.approx(laplace, abs=5e-5)
    generator = np.random.default_rng(0)
    assert relative_pruning_error(generator.standard_normal(400_000), kappa).value == pytest.approx(gaussian, abs=0.005)
    assert relative_pruning_error(generator.laplace(size=400_000), kappa).value == pytest.approx(laplace, abs=0.005)


def test_equals_the_definition() -> None:
    weights = np.random.default_rng(1).standard_t(3, (37, 21))
    for keep, power in ((0.1, 2.0), (0.33, 1.0), (0.9, 3.0)):
        kept = int(np.ceil(keep * weights.size))
        pruned = weights.reshape(-1).copy()
        pruned[np.argsort(np.abs(pruned))[: pruned.size - kept]] = 0
        norm = lambda x: (np.abs(x) ** power).sum() ** (1 / power)  # noqa: B023, E731
        wanted = norm(weights.reshape(-1) - pruned) / norm(weights)
        assert Compressibility(keep, power)(observation(weights)).value == pytest.approx(wanted, rel=1e-9)


def test_falls_as_more_is_kept_and_ends_at_zero() -> None:
    one = observation(np.random.default_rng(2).standard_normal((40, 50)))
    errors = [Compressibility(keep)(one).value for keep in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0


def test_heavy_tails_vanish_with_size_and_light_ones_do_not() -> None:
    generator = np.random.default_rng(3)
    small, large = (relative_pruning_error(generator.standard_cauchy(n), 0.1).value for n in (1000, 1_000_000))
    assert large < small < 0.2
    small, large = (relative_pruning_error(generator.standard_normal(n), 0.1).value for n in (1000, 1_000_000))
    assert large == pytest.approx(small, abs=0.05)


def test_whole_shares_are_not_rounded_up() -> None:
    weights = np.arange(1.0, 101.0)  # 0.07 * 100 is 7.000000000000001 in floats
    assert relative_pruning_error(weights, 0.07).value == pytest.approx(np.sqrt((weights[:93] ** 2).sum() / (weights**2).sum()))


# Errors of single samples of symmetric stable laws, computed elsewhere: keeping 0.5, 0.3, 0.1, 0.05 of n weights.
STABLE = [
    (1.1, 10**4, (0.0061, 0.0119, 0.0247, 0.0347)),
    (1.5, 10**4, (0.0735, 0.1317, 0.2291, 0.2766)),
    (1.8, 10**4, (0.183, 0.321, 0.527, 0.608)),
    (1.5, 10**6, (0.0319, 0.0572, 0.100, 0.1215)),
    (1.8, 10**6, (0.115, 0.202, 0.332, 0.383)),
]


@pytest.mark.parametrize(("alpha", "n", "golden"), STABLE)
def test_golden_errors_of_stable_laws(alpha: float, n: int, golden: tuple[float, ...]) -> None:
    """The largest weight of a sample is random, and so is the error: the published sample is within the spread of others."""
    draws = 40 if n < 10**5 else 4
    errors = np.array([[relative_pruning_error(stable(alpha, n, seed), k).value for k in KEPT] for seed in range(draws)])
    spread = 0.1 if n < 10**5 else 0.5
    assert (errors.min(0) * (1 - spread) <= golden).all() and (golden <= errors.max(0) * (1 + spread)).all()


@pytest.mark.parametrize("alpha", [1.1, 1.5, 1.8])
def test_errors_of_stable_laws_fall_at_the_known_rate(alpha: float) -> None:
    small, large = (
        np.median([relative_pruning_error(stable(alpha, n, seed), 0.1).value for seed in range(40)]) for n in (1000, 30_000)
    )
    assert np.log(large / small) / np.log(30) == pytest.approx(0.5 - 1 / alpha, abs=0.07)


@pytest.mark.parametrize(("exponent", "kappa"), [(4.0, 0.25), (3.0, 0.1), (6.0, 0.5)])
def test_pareto_weights_in_closed_form(exponent: float, kappa: float) -> None:
    """The kappa largest of a Pareto law hold kappa^(1 - 2 / exponent) of the energy."""
    weights = ((np.arange(10**6) + 0.5) / 10**6) ** (-1 / exponent)
    error = relative_pruning_error(weights, kappa).value
    assert error**2 == pytest.approx(1 - kappa ** (1 - 2 / exponent), abs=0.01)
    if (exponent, kappa) == (4.0, 0.25):
        assert error**2 == pytest.approx(0.5, abs=1e-3)
