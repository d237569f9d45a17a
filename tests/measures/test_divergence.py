"""Divergence between outputs: closed forms, a naive oracle, and invariance to scale and shift."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dyncompress.measures.divergence import agreement, are_scores, divergence, log_softmax


def naive(reference: np.ndarray, output: np.ndarray) -> float:
    """The mean KL divergence, computed for one example and one class at a time."""
    total = 0.0
    for a, b in zip(reference, output, strict=True):
        p = [math.exp(v) / sum(math.exp(w) for w in a) for v in a]
        q = [math.exp(v) / sum(math.exp(w) for w in b) for v in b]
        total += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    return total / len(reference)


def test_scores_are_compared_by_kl_divergence() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(50, 6)), draw.normal(size=(50, 6))
    assert divergence(a, b) == pytest.approx(naive(a, b))
    assert divergence(a, a) == 0.0
    assert divergence(a, a + draw.normal(size=(50, 1))) == pytest.approx(0.0, abs=1e-12)  # softmax depends on differences only
    # log odds 0 against log odds t: KL((1/2, 1/2) || q) = log cosh(t / 2)
    t = np.linspace(0, 3, 7)
    found = [divergence(np.zeros((1, 2)), np.array([[0.0, value]])) for value in t]
    assert found == pytest.approx(np.log(np.cosh(t / 2)))


def test_scores_far_apart_do_not_overflow() -> None:
    huge = np.array([[1e4, 0.0, -1e4]], np.float32)
    assert divergence(huge, huge[:, ::-1]) == pytest.approx(2e4)
    assert np.isfinite(log_softmax(huge.astype(np.float64))).all()


def test_other_outputs_are_compared_relative_to_their_variance() -> None:
    draw = np.random.default_rng(1)
    for shape in ((40,), (40, 1), (40, 3, 4)):
        a = draw.normal(size=shape)
        b = a + 0.1 * draw.normal(size=shape)
        assert divergence(a, b) == pytest.approx(float(((b - a) ** 2).mean() / a.var()))
        assert divergence(7 * a + 3, 7 * b + 3) == pytest.approx(divergence(a, b))
        assert not are_scores(a) and math.isnan(agreement(a, b))
    assert divergence(np.ones(4), np.ones(4)) == 0.0  # a constant output has no variance to divide by


def test_agreement_counts_the_largest_scores() -> None:
    a = np.array([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [5.0, 4.0]])
    b = np.array([[0.0, 9.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert agreement(a, b) == 0.75 and agreement(a, 2 * a + 1) == 1.0
