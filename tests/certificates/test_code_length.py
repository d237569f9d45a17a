"""Occam's bound: published values and identities."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dyncompress.certificates.code_length import kl, kl_inverse, occam, self_delimiting_bits
from dyncompress.errors import InvalidRequest

NATS = 1 / math.log(2)


@pytest.mark.parametrize(
    ("rate", "nats", "n", "bound"),
    [(0.1, 500, 50_000, 0.1478), (0.3, 5000, 50_000, 0.5211), (0.02, 1000, 60_000, 0.0569), (0.55, 12_000, 50_000, 0.8435)],
)
def test_occam_has_its_published_values(rate, nats, n, bound):
    assert occam(round(rate * n), n, nats * NATS, 0.05) == pytest.approx(bound, abs=6e-5)


def test_kl_of_a_published_run():
    assert kl_inverse(0.289307, (1724 - math.log(0.05)) / 30_000) == pytest.approx(0.4549, abs=5e-5)


@pytest.mark.parametrize(
    ("k", "n", "bound"), [(0, 100, 0.02951), (0, 1000, 0.00299), (10, 1000, 0.01976), (500, 10_000, 0.05552)]
)
def test_no_bits_leave_chernoffs_bound(k, n, bound):
    assert occam(k, n, 0, 0.05) == pytest.approx(bound, abs=1e-5)


def test_a_compressed_imagenet_model():
    assert occam(round(0.35 * 1_281_167), 1_281_167, 2_867_200, 0.05) == pytest.approx(0.96539, abs=2e-5)


@pytest.mark.parametrize("q", [0.0, 0.01, 0.4, 1.0])
def test_inverse_is_one(q):
    for budget in (0.0, 1e-4, 0.3, 5.0):
        p = kl_inverse(q, budget)
        assert q <= p <= 1
        if p < 1:
            assert kl(q, p) == pytest.approx(budget, abs=1e-9)


def test_no_share_below_the_answer_costs_more():
    ps = np.linspace(0.2, kl_inverse(0.2, 0.1), 50)
    assert all(kl(0.2, p) <= 0.1 + 1e-12 for p in ps)


@pytest.mark.parametrize(("bits", "length"), [(100, 113.29), (1000, 1019.93), (10_000, 10_026.58)])
def test_self_delimiting_length(bits, length):
    assert self_delimiting_bits(bits) == pytest.approx(length + 1, abs=0.006)


def test_krafts_inequality_holds_for_all_lengths():
    assert sum(2.0 ** (bits - self_delimiting_bits(bits)) for bits in range(1, 1000)) + 0.5 / 999 <= 1


def test_monotone_in_errors_bits_n_and_delta():
    assert occam(10, 1000, 50, 0.05) < occam(11, 1000, 50, 0.05)
    assert occam(10, 1000, 50, 0.05) < occam(10, 1000, 51, 0.05)
    assert occam(10, 1000, 50, 0.05) < occam(10, 1000, 50, 0.01)
    assert occam(20, 2000, 50, 0.05) < occam(10, 1000, 50, 0.05)


def test_bad_arguments_are_refused():
    for call in (lambda: occam(11, 10, 5, 0.05), lambda: occam(1, 10, -5, 0.05), lambda: occam(1, 10, math.nan, 0.05)):
        with pytest.raises(InvalidRequest):
            call()
    with pytest.raises(InvalidRequest):
        kl_inverse(1.2, 0.1)
    with pytest.raises(InvalidRequest):
        self_delimiting_bits(0)
