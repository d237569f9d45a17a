"""The two noise measures on observations with known gains."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dyncompress.measures import LayerCushion, NoiseAttenuation
from dyncompress.types import Layer, NoiseGain, Observation


def observation_of(cushions: list[float], gains: list[float]) -> Observation:
    return Observation(Layer("layer", "linear", (4, 4), 16), {NoiseGain(): (np.array(cushions), np.array(gains))})


def test_the_cushion_is_the_smallest_or_a_low_quantile() -> None:
    cushions = list(np.random.default_rng(0).permutation(np.arange(1, 101) / 100))
    one = observation_of(cushions, [1.0] * 100)
    assert LayerCushion()(one).value == 0.01
    assert LayerCushion(share=0.05)(one).value == 0.06
    assert math.isnan(LayerCushion()(one).stderr) and LayerCushion()(one).valid


def test_the_attenuation_is_a_root_mean_square_with_its_error() -> None:
    gains = np.random.default_rng(1).uniform(0.2, 0.8, 400)
    estimate = NoiseAttenuation()(observation_of([0.1] * 400, list(gains)))
    assert estimate.value == pytest.approx(np.sqrt((gains**2).mean()))
    draws = [np.sqrt((np.random.default_rng(s).uniform(0.2, 0.8, 400) ** 2).mean()) for s in range(300)]
    assert estimate.stderr == pytest.approx(np.std(draws), rel=0.2)


def test_examples_without_a_ratio_are_left_out_and_few_are_invalid() -> None:
    one = observation_of([math.nan, 0.5, 0.4], [math.inf, 2.0, 1.0])
    assert LayerCushion()(one).value == 0.4 and not LayerCushion()(one).valid
    assert NoiseAttenuation()(one).n == 2 and not NoiseAttenuation()(one).valid
    for measure in (LayerCushion(), NoiseAttenuation()):
        assert math.isnan(measure(observation_of([math.nan, 0.5], [math.nan, 1.0])).value)


def test_a_dead_end_carries_nothing() -> None:
    estimate = NoiseAttenuation()(observation_of([0.1] * 40, [0.0] * 40))
    assert (estimate.value, estimate.stderr) == (0.0, 0.0)
