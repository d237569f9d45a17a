"""Clopper-Pearson: the exact bound on a probability from a count.

When k of n independent examples are wrong, the upper limit is the p at which P(Bin(n, p) <= k) = delta:
    upper = Beta^-1(1 - delta; k + 1, n - k)  (1 if k = n),   lower = Beta^-1(delta; k, n - k + 1)  (0 if k = 0).

Source: Clopper and Pearson (1934), Biometrika 26. Assumes: independent examples of one law, 0-1 losses. Every constant is
computed. Cost: one inverse of the incomplete beta function.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betainccinv, betaincinv

from dyncompress.certificates.losses import check_counts, check_delta, check_losses
from dyncompress.types import Interval


def upper_limit(k: int, n: int, delta: float) -> float:
    """Upper bound, at confidence 1 - delta, on the probability of an event that occurred `k` times in `n` independent trials.

    Raises:
        InvalidRequest: the counts are impossible, or delta isn't a probability.

    Example:
        >>> round(upper_limit(0, 100, 0.05), 6)
        0.029513
    """
    check_counts(n, k)
    check_delta(delta)
    return 1.0 if k == n else float(betainccinv(k + 1, n - k, delta))


def lower_limit(k: int, n: int, delta: float) -> float:
    """Lower bound, at confidence 1 - delta, on the probability of an event that occurred `k` times in `n` independent trials.

    Raises:
        InvalidRequest: the counts are impossible, or delta isn't a probability.

    Example:
        >>> round(lower_limit(10, 100, 0.05), 6)
        0.055263
    """
    check_counts(n, k)
    check_delta(delta)
    return 0.0 if k == 0 else float(betaincinv(k, n - k + 1, delta))


@dataclass(frozen=True)
class ClopperPearson:
    """Upper bound on the mean of 0-1 losses."""

    def __call__(self, losses: np.ndarray, delta: float) -> Interval:
        """Bound the mean of 0-1 losses `[n]` from above; the lower end is 0.

        Raises:
            InvalidRequest: a loss is neither 0 nor 1.
        """
        losses = check_losses(losses, values=(0, 1))
        k, n = int(losses.sum()), len(losses)
        return Interval(k / n, 0.0, upper_limit(k, n, delta), delta, n, "Clopper-Pearson")


@dataclass(frozen=True)
class ClopperPearsonTwoSided:
    """Both bounds on the mean of 0-1 losses, each at delta / 2."""

    def __call__(self, losses: np.ndarray, delta: float) -> Interval:
        """Bound the mean of 0-1 losses `[n]` from both sides.

        Raises:
            InvalidRequest: a loss is neither 0 nor 1.
        """
        losses = check_losses(losses, values=(0, 1))
        k, n = int(losses.sum()), len(losses)
        check_delta(delta)
        return Interval(k / n, lower_limit(k, n, delta / 2), upper_limit(k, n, delta / 2), delta, n, "Clopper-Pearson, two-sided")
