"""Norms weighted by the tail exponent: the formulas written out, scale, and one dominating eigenvalue."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dyncompress.measures import AlphaWeighted, EsdPowerLaw, LogAlphaNorm
from dyncompress.types import Layer, Observation, Spectrum
from tests.measures.observations import observation
from tests.measures.test_esd_alpha import pareto_spectrum, untrained


def test_equal_the_formulas() -> None:
    one = observation(np.random.default_rng(0).standard_t(3, (80, 20, 2, 2)))
    values = np.sort(np.concatenate([part[-20:] for part in one[Spectrum("slices")]]))
    alpha = EsdPowerLaw()(one)
    weighted, norm = AlphaWeighted()(one), LogAlphaNorm()(one)
    assert weighted.value == pytest.approx(alpha.value * math.log10(values[-1]), rel=1e-9)
    assert norm.value == pytest.approx(math.log10((values**alpha.value).sum()), rel=1e-9)
    assert (weighted.fit, weighted.n, weighted.valid) == (alpha.fit, alpha.n, alpha.valid) == (norm.fit, norm.n, norm.valid)


def test_standard_errors_are_the_derivatives() -> None:
    one = pareto_spectrum(3.0)
    values, alpha = one[Spectrum("slices")][0], EsdPowerLaw()(one)
    slope = (math.log10((values ** (alpha.value + 1e-6)).sum()) - math.log10((values ** (alpha.value - 1e-6)).sum())) / 2e-6
    assert LogAlphaNorm()(one).stderr == pytest.approx(alpha.stderr * slope, rel=1e-4)
    assert AlphaWeighted()(one).stderr == pytest.approx(alpha.stderr * math.log10(values[-1]), rel=1e-9)


def test_one_dominating_eigenvalue_makes_them_equal() -> None:
    values = np.append(np.sort(1 + np.random.default_rng(1).pareto(3, 99)), 1e6)
    one = Observation(Layer("layer", "linear", (100, 100), 10_000), {Spectrum("slices"): [values]})
    assert LogAlphaNorm()(one).value == pytest.approx(AlphaWeighted()(one).value, rel=1e-6)


def test_a_factor_adds_its_logarithm() -> None:
    weight = untrained()[1].astype(np.float64)
    alpha = EsdPowerLaw()(observation(weight)).value
    for measure in (AlphaWeighted(), LogAlphaNorm()):
        rise = measure(observation(100 * weight)).value - measure(observation(weight)).value
        assert rise == pytest.approx(4 * alpha, rel=1e-6)


def test_powers_that_would_overflow_do_not() -> None:
    one = observation(1e60 * np.random.default_rng(2).standard_normal((64, 200)))
    assert math.isfinite(LogAlphaNorm()(one).value)


def test_few_eigenvalues_give_no_number() -> None:
    for measure in (AlphaWeighted(), LogAlphaNorm(view="flat")):
        assert math.isnan(measure(observation(np.ones((3, 4)))).value)
