"""How far two correct computations of one sum may be apart on any processor: from the type of the numbers and their count."""

from __future__ import annotations

import numpy as np


def rounding(values: np.ndarray, terms: int, *, kind: type[np.floating] = np.float32) -> float:
    """An absolute tolerance for sums or means of `terms` numbers as large as the largest of `values`.

    Kernels add in different orders, and terms that cancel leave the rounding of the large ones: an error is a share of the
    largest sum, never of the small result. Each of two computations is off by sqrt(terms) roundings where these are independent;
    four times both is allowed.

    Args:
        values: what is summed, or the sums themselves.
        terms: numbers in one sum.
        kind: the coarsest type in which numbers are kept on the way.
    """
    return float(8 * np.sqrt(terms) * np.finfo(kind).eps * max(np.abs(values).max(initial=0.0), np.finfo(kind).tiny))


def test_float32_sums_in_any_order_agree_within_the_tolerance() -> None:
    draw = np.random.default_rng(0)
    for terms in (2, 30, 1000, 30_000):
        values = draw.standard_normal((terms, 20)).astype(np.float32)
        exact = values.astype(np.float64).sum(0)
        for order in (values, values[::-1], draw.permutation(values)):
            found = np.add.accumulate(order, axis=0)[-1]  # one number after the other: the worst of all kernels
            assert np.abs(found - exact).max() <= rounding(np.add.accumulate(np.abs(values), axis=0)[-1], terms)
