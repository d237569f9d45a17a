"""The number of largest eigenvalues whose product is one: a choice of rank without data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import unusable
from dyncompress.measures.esd_alpha import pooled_eigenvalues
from dyncompress.types import Estimate, Need, Observation, Spectrum


@dataclass(frozen=True)
class DetRank:
    """The fewest of the largest eigenvalues whose product is below 1, after scaling them to mean 1.

    From the largest eigenvalue on, the product first grows and then shrinks; by the inequality of the means, the product of all
    is at most 1. The eigenvalues with product 1 are taken as the layer's effective space. It is computed exactly, so its standard
    error is zero.

    Source: the det X = 1 condition of weightwatcher (Martin and Mahoney).
    Cost: one symmetric eigenvalue problem.
    Fails when: all weights are zero. A flat spectrum gives the whole rank.
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        """The spectrum of the flattened weight."""
        return (Spectrum("flat"),)

    def __call__(self, observation: Observation) -> Estimate:
        """The number of eigenvalues; n is the rank."""
        values, _ = pooled_eigenvalues(observation, "flat")
        if values.size == 0:
            return unusable(0, "all weights are zero")
        relative = values[::-1] / values[-1]
        logs = np.cumsum(np.log(relative / relative.mean()))
        below = logs < -1e-9 * values.size  # in a flat spectrum, smaller differences are rounding errors
        count = int(np.argmax(below)) + 1 if below.any() else values.size
        return Estimate(float(count), 0.0, values.size)
