"""Kurtosis of known laws, and the coverage of its standard error."""

from __future__ import annotations

import numpy as np
import pytest

from dyncompress.measures import Kurtosis
from tests.measures.observations import observation


@pytest.mark.parametrize(("law", "excess"), [("standard_normal", 0.0), ("laplace", 3.0), ("uniform", -1.2), ("logistic", 1.2)])
def test_known_laws(law: str, excess: float) -> None:
    weights = getattr(np.random.default_rng(0), law)(size=(400, 500))
    estimate = Kurtosis()(observation(weights))
    assert abs(estimate.value - excess) < 4 * estimate.stderr


def test_equals_the_definition() -> None:
    weights = np.random.default_rng(1).standard_t(5, (30, 40))
    z = weights - weights.mean()
    assert Kurtosis()(observation(weights)).value == pytest.approx((z**4).mean() / (z**2).mean() ** 2 - 3, rel=1e-10)


def test_standard_error_is_that_of_repetitions() -> None:
    estimates = [Kurtosis()(observation(np.random.default_rng(seed).standard_normal((50, 80)))) for seed in range(200)]
    assert np.std([e.value for e in estimates]) == pytest.approx(np.sqrt(24 / 4000), rel=0.2)
    assert np.mean([e.stderr for e in estimates]) == pytest.approx(np.sqrt(24 / 4000), rel=0.2)


def test_signs_and_shift_do_not_matter() -> None:
    weights = np.random.default_rng(2).laplace(size=(40, 50))
    assert Kurtosis()(observation(3 - weights)).value == pytest.approx(Kurtosis()(observation(weights)).value, rel=1e-9)
