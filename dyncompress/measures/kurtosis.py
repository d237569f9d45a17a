"""The excess kurtosis of a layer's weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import flat_weights, unusable
from dyncompress.types import Estimate, Need, Observation, Weight

FEWEST, ADVISED = 4, 100


@dataclass(frozen=True)
class Kurtosis:
    """E[z^4] - 3 for standardised weights z: 0 for Gaussian, 3 for Laplace, -1.2 for uniform weights.

    The standard error comes from the influence function, the mean of ((z^4 - b) - 2 b (z^2 - 1) - 4 g z)^2 over n with kurtosis b
    and skewness g; 24 / n for Gaussian weights.

    Source: the moment estimator; Serfling, Approximation Theorems of Mathematical Statistics (1980), for the influence function.
    Assumes: independent weights with eight moments (for the standard error).
    Cost: O(N).
    Fails when: the fourth moment is infinite. The value then grows with N and shows only that tails are heavy.
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight."""
        return (Weight(),)

    def __call__(self, observation: Observation) -> Estimate:
        """The excess kurtosis of all weights, zeros included."""
        weights = flat_weights(observation)
        largest = np.abs(weights).max(initial=0.0)
        if weights.size < FEWEST or weights.min() == weights.max():
            return unusable(weights.size, f"{weights.size} weights, all equal" if weights.size else "no weights")
        z = weights / largest
        z = (z - z.mean()) / z.std()
        square = z * z
        skewness, kurtosis = float((square * z).mean()), float((square * square).mean())
        influence = (square * square - kurtosis) - 2 * kurtosis * (square - 1) - 4 * skewness * z
        stderr = math.sqrt(float((influence * influence).mean()) / z.size)
        notes = () if z.size >= ADVISED else (f"only {z.size} weights; {ADVISED} are advised",)
        return Estimate(kurtosis - 3, stderr, z.size, valid=z.size >= ADVISED, notes=notes)
