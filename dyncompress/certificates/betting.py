"""Betting (Waudby-Smith and Ramdas): bounds on the mean of losses in [0, 1] that adapt to their variance.

A gambler with capital 1 bets against the hypothesis that the mean is r. The capital after t losses is
K_t(r) = prod_{i <= t} (1 - nu_i (x_i - r)), where the bet nu_i depends on earlier losses only:
    mu_i = (1/2 + sum_{j <= i} x_j) / (1 + i),   s2_i = (1/4 + sum_{j <= i} (x_j - mu_j)^2) / (1 + i),
    nu_i = min(1, sqrt(2 ln(1 / delta) / (n s2_{i-1}))),   s2_0 = 1/4.
If the mean is r or more, K is a nonnegative supermartingale, and by Ville's inequality max_t K_t(r) > 1 / delta has probability
at most delta. K increases with r, so that the upper bound is inf {r: max_t K_t(r) > 1 / delta}; bisection computes it.

The bound depends on the order of the losses. The order is drawn with a seed that is a constant of the library, because a bound
whose order was chosen among several isn't valid.
Source: Waudby-Smith and Ramdas (2024), JRSS B 86; the form in Bates et al. (2021), J. ACM 68. Assumes: independent losses of
one law in [0, 1]. Every constant is computed. Cost: O(n) for each of 60 bisections.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.certificates.losses import check_delta, check_losses
from dyncompress.types import Interval
from dyncompress.types.arrays import Float, Float64

_ORDER_SEED = 19_980_307  # never an argument


def betting_upper(losses: np.ndarray, delta: float) -> float:
    """Upper bound, at confidence 1 - delta, on the expected loss, from losses `[n]` in [0, 1].

    Raises:
        InvalidRequest: a loss lies outside [0, 1], or delta isn't a probability.

    Example:
        >>> round(betting_upper(np.zeros(100), 0.05), 4)
        0.0309
    """
    x = check_losses(losses)
    x = x[np.random.default_rng(_ORDER_SEED).permutation(len(x))]
    bets = stakes(x, check_delta(delta))
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        rich = log_capital(x, bets, middle).max() > -np.log(delta)
        low, high = (low, middle) if rich else (middle, high)
    return max(high, float(x.mean()))  # early losses above the mean can push the bound below the mean; then the mean is reported


def betting_lower(losses: np.ndarray, delta: float) -> float:
    """Lower bound, at confidence 1 - delta, on the expected loss, from losses `[n]` in [0, 1].

    Raises:
        InvalidRequest: a loss lies outside [0, 1], or delta isn't a probability.
    """
    return 1 - betting_upper(1 - check_losses(losses), delta)


def stakes(ordered: Float[np.ndarray, "*batch n"], delta: float) -> Float64[np.ndarray, "*batch n"]:
    """The bets nu_i `[..., n]` on losses `[..., n]` in their final order; nu_i depends on the losses before i only."""
    n = ordered.shape[-1]
    count = 1 + np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(ordered, axis=-1)) / count
    variance = (0.25 + np.cumsum((ordered - mean) ** 2, axis=-1)) / count
    before = np.concatenate([np.full((*ordered.shape[:-1], 1), 0.25), variance[..., :-1]], axis=-1)
    return np.minimum(1, np.sqrt(2 * np.log(1 / delta) / (n * before)))


def log_capital(
    ordered: Float[np.ndarray, "*batch n"], bets: Float[np.ndarray, "*batch n"], mean: float
) -> Float64[np.ndarray, "*batch n"]:
    """ln K_t(mean) `[..., n]`, the logarithm of the capital after each loss; -inf once the capital is 0."""
    with np.errstate(divide="ignore"):
        return np.cumsum(np.log(np.maximum(1 - bets * (ordered - mean), 0)), axis=-1)


@dataclass(frozen=True)
class Betting:
    """Upper bound on the mean of losses in [0, 1]."""

    def __call__(self, losses: np.ndarray, delta: float) -> Interval:
        """Bound the mean of losses `[n]` from above; the lower end is 0.

        Raises:
            InvalidRequest: a loss lies outside [0, 1].
        """
        losses = check_losses(losses)
        return Interval(float(losses.mean()), 0.0, betting_upper(losses, delta), delta, len(losses), "betting (WSR), fixed order")


@dataclass(frozen=True)
class BettingTwoSided:
    """Both bounds on the mean of losses in [0, 1], each at delta / 2."""

    def __call__(self, losses: np.ndarray, delta: float) -> Interval:
        """Bound the mean of losses `[n]` from both sides.

        Raises:
            InvalidRequest: a loss lies outside [0, 1].
        """
        losses = check_losses(losses)
        check_delta(delta)
        lower, upper = betting_lower(losses, delta / 2), betting_upper(losses, delta / 2)
        return Interval(float(losses.mean()), lower, upper, delta, len(losses), "betting (WSR), two-sided, fixed order")
