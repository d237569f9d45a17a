"""Hill's estimator of the tail exponent of |weights|."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import NO_TAIL, flat_weights, require, unusable
from dyncompress.types import Estimate, Need, Observation, Weight
from dyncompress.types.arrays import Float

FEWEST = 10


@dataclass(frozen=True)
class Hill:
    """The survival exponent alpha of P(|w| > t) = L(t) t^-alpha, from the k largest |w|.

    With X_(1) >= X_(2) >= ...

        1 / alpha = (1/k) sum_{i <= k} log X_(i) - log X_(k+1),    standard error alpha / sqrt(k).

    The exponent of the density, which `power_law` and the ESD measures report, is this plus one.

    Source: Hill, Annals of Statistics 3 (1975).
    Assumes: independent weights with a regularly varying tail that has begun at X_(k+1).
    Cost: O(N).
    Fails when: the tail isn't a power law. Gaussian weights give about 6, alpha-stable ones with index 1.8 give about 2.7: this
    measure and `block_sum` estimate different exponents and aren't comparable.

    Attributes:
        fraction: k / N, in (0, 1), of the non-zero weights.
    """

    fraction: float = 0.05

    def __post_init__(self) -> None:
        """Check the fields."""
        require(0 < self.fraction < 1, "hill", "fraction", self.fraction, "between 0 and 1")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight."""
        return (Weight(),)

    def __call__(self, observation: Observation) -> Estimate:
        """Estimate alpha; `fit` is the Kolmogorov-Smirnov distance of the k largest to the fitted Pareto law."""
        return hill_exponent(np.abs(flat_weights(observation)), self.fraction)


def hill_exponent(values: Float[np.ndarray, " n"], fraction: float) -> Estimate:
    """Hill's estimate from the largest `fraction` (in (0, 1)) of the positive entries of `values` `[n]`.

    Example: exact quantiles of a Pareto law with exponent 2.
        >>> import numpy as np
        >>> estimate = hill_exponent((np.arange(1, 100_001) / 100_001) ** -0.5, 0.05)
        >>> round(estimate.value, 2)
        2.0
    """
    positive = values[values > 0]
    k = int(fraction * positive.size)
    if k < 2:
        return unusable(positive.size, f"{positive.size} non-zero weights leave {k} in the tail; Hill's estimator needs 2")
    tail = np.sort(np.partition(positive, positive.size - k - 1)[positive.size - k - 1 :])
    excess = np.log(tail[1:]) - math.log(tail[0])
    mean = float(excess.mean())
    if mean <= 0:
        return unusable(k, f"the {k + 1} largest weights have the same size")
    alpha = 1 / mean
    model = -np.expm1(-alpha * excess)
    distance = float(np.maximum(np.abs(model - np.arange(k) / k), np.abs(model - np.arange(1, k + 1) / k)).max())
    notes = []
    if positive.size < values.size:
        notes.append(f"{values.size - positive.size} exact zeros left out")
    if k < FEWEST:
        notes.append(f"only {k} weights in the tail; {FEWEST} are the least")
    ties = k + 1 - np.unique(tail).size
    if ties > k // 2:
        notes.append(f"{ties} of the {k} tail weights are ties")
    if alpha + 1 > NO_TAIL:
        notes.append("no power-law tail (exponent above 5)")
    valid = k >= FEWEST and ties <= k // 2 and alpha + 1 <= NO_TAIL
    return Estimate(alpha, alpha / math.sqrt(k), k, fit=distance, valid=valid, notes=tuple(notes))
