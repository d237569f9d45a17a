"""The share of outliers: the definition written out, a case by hand, groups."""

from __future__ import annotations

import numpy as np
import pytest

from dyncompress.measures import OutlierRatio
from dyncompress.types import InputMoment, Layer, Observation, Weight
from tests.measures.observations import observation


def test_a_case_by_hand() -> None:
    weight = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, 9.0]])
    moment = np.diag([1.0, 1.0, 4.0, 1.0])[None]  # scores 1 1 2 1 / 1 1 2 9, mean 18 / 8
    one = Observation(Layer("l", "linear", (2, 4), 8), {Weight(): weight, InputMoment(): moment})
    assert OutlierRatio(times=3.9)(one).value == 1 / 8
    assert OutlierRatio(times=4.0)(one).value == 0.0
    assert OutlierRatio(times=0.8)(one).value == 3 / 8


@pytest.mark.parametrize("groups", [1, 4])
def test_is_the_definition_weight_by_weight(groups: int) -> None:
    weight = np.random.default_rng(0).standard_t(3, (8, 6, 3, 3))
    one = observation(weight, groups=groups)
    moment, flat = one[InputMoment()], weight.reshape(8, -1)
    scores = [[abs(w) * moment[row // (8 // groups), j, j] ** 0.5 for j, w in enumerate(line)] for row, line in enumerate(flat)]
    expected = (np.array(scores) > 5 * np.mean(scores)).mean()
    result = OutlierRatio()(one)
    assert 0 < result.value == pytest.approx(expected)
    assert result.n == weight.size
    assert result.stderr == pytest.approx((expected * (1 - expected) / weight.size) ** 0.5)


def test_more_outliers_are_told() -> None:
    """Of Gaussian weights behind equal inputs, 5 * E|x| is 4 standard deviations: 6.6e-5 lie beyond."""
    weight = np.random.default_rng(1).standard_normal((500, 400))
    spiked = np.where(np.arange(400) % 40 == 0, 30 * np.sign(weight), weight)
    result = []
    for one in (weight, spiked):
        layer = Layer("l", "linear", weight.shape, weight.size)
        result.append(OutlierRatio()(Observation(layer, {Weight(): one, InputMoment(): np.eye(400)[None]})).value)
    assert result == [pytest.approx(6.6e-5, abs=6e-5), 1 / 40]
