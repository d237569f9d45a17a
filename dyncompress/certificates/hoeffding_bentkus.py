"""Hoeffding-Bentkus: a p-value for "the mean loss is above alpha" and the upper bound that inverts it.

    p = min(exp(-n kl(min(m, alpha) || alpha)), e P(Bin(n, alpha) <= ceil(n m))),   m the mean of n losses in [0, 1].

For 0-1 losses the factor e is dropped, because the binomial tail is then exact. p decreases in alpha; bisection gives the bound.
Source: Bates et al. (2021), J. ACM 68, and Angelopoulos et al. (2021), Learn then Test, after Hoeffding (1963) and Bentkus
(2004). Assumes: independent losses of one law in [0, 1]. Every constant is computed. Cost: 60 binomial tails.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincc

from dyncompress.certificates.code_length import kl
from dyncompress.certificates.losses import check_delta, check_losses
from dyncompress.types import Interval


def p_value(mean: float, n: int, alpha: float) -> float:
    """p-value of "the mean is above alpha" for `n` losses in [0, 1] with mean `mean`.

    Example:
        >>> round(p_value(0.08, 1000, 0.1), 4)
        0.0479
    """
    if mean >= alpha:
        return 1.0
    return min(math.exp(-n * kl(mean, alpha)), math.e * binary_p_value(math.ceil(n * mean), n, alpha), 1.0)


def binary_p_value(k: int, n: int, alpha: float) -> float:
    """p-value of "the error rate is above alpha" for `k` errors in `n`: P(Bin(n, alpha) <= k)."""
    return 1.0 if k >= n else float(betaincc(k + 1, n - k, alpha))


def hoeffding_bentkus_upper(mean: float, n: int, delta: float) -> float:
    """Upper bound, at confidence 1 - delta, on the expected loss behind `n` losses in [0, 1] with mean `mean`.

    It is the alpha at which the p-value falls to delta, rounded up.

    Raises:
        InvalidRequest: delta isn't strictly between 0 and 1.

    Example:
        >>> round(hoeffding_bentkus_upper(0.08, 1000, 0.05), 4)
        0.0998
    """
    check_delta(delta)
    low, high = mean, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if p_value(mean, n, middle) <= delta else (middle, high)
    return high


@dataclass(frozen=True)
class HoeffdingBentkus:
    """Upper bound on the mean of losses in [0, 1]; it doesn't depend on their order."""

    def __call__(self, losses: np.ndarray, delta: float) -> Interval:
        """Bound the mean of losses `[n]` from above; the lower end is 0.

        Raises:
            InvalidRequest: a loss lies outside [0, 1].
        """
        losses = check_losses(losses)
        mean = min(math.fsum(losses) / len(losses), 1.0)
        return Interval(mean, 0.0, hoeffding_bentkus_upper(mean, len(losses), delta), delta, len(losses), "Hoeffding-Bentkus")
