"""Kaplan and Yorke on diagonal Hessians, where the dimension is known; the trace."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyncompress.measures import HessianTrace, SharpnessDimension
from dyncompress.measures.sharpness_dimension import kaplan_yorke
from dyncompress.types import HessianSpectrum, Layer, Observation

RATE = 0.1


def observation_of(values: np.ndarray, counts: np.ndarray | None = None) -> Observation:
    """A layer whose Hessian's eigenvalues are `values` `[batches, n]`."""
    values = np.atleast_2d(np.asarray(values, dtype=float))
    weights = values.shape[1] if counts is None else int(counts[0].sum())
    layer = Layer("layer", "linear", (1, weights), weights)
    return Observation(layer, {HessianSpectrum(): (values, np.ones_like(values) if counts is None else counts)})


def definition(values: np.ndarray) -> float:
    """The dimension as the theorem writes it, from eigenvalues `[batches, d]`."""
    lambdas = np.mean([np.sort(np.log(np.abs(1 - RATE * h)))[::-1] for h in values], axis=0)
    sums = np.cumsum(lambdas)
    held = [i + 1 for i in range(len(sums)) if sums[i] >= 0]
    if not held:
        return 0.0
    j = max(held)
    return float(j) if j == len(lambdas) else j + sums[j - 1] / abs(lambdas[j])


def test_diagonal_hessians_by_hand() -> None:
    """|1 - rate h| = e, 1 and 1/e^2: sums 1, 1, -1, so 2 + 1/2."""
    h = (1 - np.exp([1.0, 0.0, -2.0])) / RATE
    assert SharpnessDimension(rate=RATE)(observation_of([h, h])).value == pytest.approx(2.5)
    assert SharpnessDimension(rate=RATE)(observation_of([h[::-1], h])).value == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("values", "dimension"),
    [
        ([1.0, 2.0, 3.0], 0.0),  # everything contracts
        ([-1.0, -2.0, -3.0], 3.0),  # everything expands
        ([0.0, 0.0, 0.0, 5.0], 3.0),  # flat directions count as one dimension
        ([1e-9, -1e-9, 0.0, 5.0], 3.0),  # and so do those that are flat up to rounding
        ([30.0, 5.0], 1.0 + math.log(2) / math.log(2)),  # above 2 / rate a step overshoots: |1 - 3| = 2 expands
    ],
)
def test_closed_forms(values: list[float], dimension: float) -> None:
    assert SharpnessDimension(rate=RATE)(observation_of([values, values])).value == pytest.approx(dimension)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), batches=st.integers(1, 4))
def test_equals_the_definition(seed: int, n: int, batches: int) -> None:
    values = np.random.default_rng(seed).normal(1.0, 6.0, (batches, n))
    assert SharpnessDimension(rate=RATE)(observation_of(values)).value == pytest.approx(definition(values), abs=1e-6)


def test_the_mean_over_batches_is_taken_before_the_sum() -> None:
    expanding, contracting = (1 - np.exp([0.5, 0.5])) / RATE, (1 - np.exp([-1.0, -1.0])) / RATE
    assert SharpnessDimension(rate=RATE)(observation_of([expanding, contracting])).value == 0.0
    assert SharpnessDimension(rate=RATE)(observation_of([expanding, expanding, contracting])).value == pytest.approx(2.0)


def test_values_that_stand_for_several_directions() -> None:
    few = kaplan_yorke(np.array([[0.5, -0.25]]), np.array([[2.0, 10.0]]))
    many = kaplan_yorke(np.array([[0.5] * 2 + [-0.25] * 10]), np.ones((1, 12)))
    assert few == pytest.approx(many) == pytest.approx(6.0)
    padded = kaplan_yorke(np.array([[0.5, -0.25, 7.0]]), np.array([[2.0, 10.0, 0.0]]))
    assert padded == pytest.approx(6.0)


def test_jackknife_and_single_batches() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(1, 3, (8, 50))
    estimate = SharpnessDimension(rate=RATE)(observation_of(values))
    left = [definition(np.delete(values, b, 0)) for b in range(8)]
    assert estimate.stderr == pytest.approx(math.sqrt(7 / 8 * ((np.array(left) - np.mean(left)) ** 2).sum()), rel=1e-6)
    alone = SharpnessDimension(rate=RATE)(observation_of(values[:1]))
    assert not alone.valid and math.isnan(alone.stderr)


def test_the_trace_is_the_mean_eigenvalue() -> None:
    values = np.random.default_rng(1).normal(2, 1, (5, 30))
    estimate = HessianTrace()(observation_of(values))
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.stderr == pytest.approx(values.mean(1).std(ddof=1) / math.sqrt(5))
    counts = np.full((2, 3), [1.0, 0.0, 9.0])
    assert HessianTrace()(observation_of([[10.0, 99.0, 0.0]] * 2, counts)).value == pytest.approx(1.0)
    assert not HessianTrace()(observation_of(values[:1])).valid


def test_no_batch_no_number() -> None:
    empty = observation_of(np.zeros((2, 3)), np.zeros((2, 3)))
    assert not SharpnessDimension()(empty).valid and not HessianTrace()(empty).valid
