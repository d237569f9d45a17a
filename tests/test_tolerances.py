"""Tolerances between two correct computations of one sum on any processor, from the type and the number of terms."""

from __future__ import annotations

import numpy as np


def rounding(values: np.ndarray, terms: int, *, kind: type[np.floating] = np.float32) -> float:
    """An absolute tolerance for sums or means of `terms` numbers as large as the largest of `values`.

    Kernels add in different orders, and cancelling terms leave the rounding errors of the large ones. An error is therefore
    relative to the largest sum, never to the small result. Each of the two computations has an error of sqrt(terms) roundings if
    these are independent; four times both is allowed.

    Args:
        values: the terms, or the sums themselves.
        terms: number of terms in one sum.
        kind: the least precise type of intermediate results.
    """
    return float(8 * np.sqrt(terms) * np.finfo(kind).eps * max(np.abs(values).max(initial=0.0), np.finfo(kind).tiny))


def test_float32_sums_in_any_order_agree_within_the_tolerance() -> None:
    draw = np.random.default_rng(0)
    for terms in (2, 30, 1000, 30_000):
        values = draw.standard_normal((terms, 20)).astype(np.float32)
        exact = values.astype(np.float64).sum(0)
        for order in (values, values[::-1], draw.permutation(values)):
            found = np.add.accumulate(order, axis=0)[-1]  # adding one number after the other is the worst case
            assert np.abs(found - exact).max() <= rounding(np.add.accumulate(np.abs(values), axis=0)[-1], terms)
