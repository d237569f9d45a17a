"""Degrees of freedom of the inputs: closed forms, limits, groups."""

from __future__ import annotations

import numpy as np
import pytest

from dyncompress.measures import EffectiveWidth
from dyncompress.measures.effective_width import degrees_of_freedom
from dyncompress.types import InputMoment, Layer, Observation


def observation_of(moment: np.ndarray, groups: int = 1) -> Observation:
    k = moment.shape[-1]
    layer = Layer("layer", "conv2d", (8, k, 1, 1), 8 * k, groups=groups)
    return Observation(layer, {InputMoment(): moment})


@pytest.mark.parametrize("ridge", [0.01, 0.5, 10.0])
def test_k_equal_directions_count_k_over_one_plus_lambda(ridge: float) -> None:
    assert degrees_of_freedom(np.repeat([1.0, 0.0], [5, 7]), ridge) == pytest.approx(5 / (1 + ridge))
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0]
    moment = rotation[:, :5] @ rotation[:, :5].T
    estimate = EffectiveWidth(ridge)(observation_of(moment[None]))
    assert estimate.value == pytest.approx(5 / (1 + ridge * 5 / 12))  # lambda is a share of the mean eigenvalue, 5 / 12
    assert estimate.n == 12


def test_equals_the_trace() -> None:
    inputs = np.random.default_rng(1).standard_normal((50, 9)) * np.arange(1, 10)
    moment = inputs.T @ inputs / 50
    ridge = 0.1 * np.trace(moment) / 9
    wanted = np.trace(moment @ np.linalg.inv(moment + ridge * np.eye(9)))
    assert EffectiveWidth(0.1)(observation_of(moment[None])).value == pytest.approx(wanted, rel=1e-9)


def test_groups_add_up_and_scale_does_not_matter() -> None:
    generator = np.random.default_rng(2)
    parts = generator.standard_normal((3, 40, 6))
    moments = np.swapaxes(parts, 1, 2) @ parts / 40
    whole = EffectiveWidth()(observation_of(moments, groups=3))
    joined = np.zeros((1, 18, 18))
    for g in range(3):
        joined[0, 6 * g : 6 * g + 6, 6 * g : 6 * g + 6] = moments[g]
    assert whole.value == pytest.approx(EffectiveWidth()(observation_of(joined)).value, rel=1e-9)
    assert EffectiveWidth()(observation_of(1e-6 * moments, groups=3)).value == pytest.approx(whole.value, rel=1e-9)


def test_it_falls_with_lambda_and_lies_below_the_rank() -> None:
    inputs = np.random.default_rng(3).standard_normal((4, 20))
    one = observation_of((inputs.T @ inputs / 4)[None])
    widths = [EffectiveWidth(ridge)(one).value for ridge in (1e-6, 1e-3, 0.1, 1.0, 100.0)]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == pytest.approx(4.0, abs=1e-3)


def test_dead_inputs_have_no_width() -> None:
    estimate = EffectiveWidth()(observation_of(np.zeros((1, 5, 5))))
    assert not estimate.valid and "zero" in estimate.notes[0]
