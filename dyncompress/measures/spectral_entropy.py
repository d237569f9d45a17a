"""How even a layer's spectrum is: entropies of its eigenvalues and singular values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import unusable
from dyncompress.measures.esd_alpha import pooled_eigenvalues
from dyncompress.types import Estimate, Need, Observation, Spectrum
from dyncompress.types.arrays import Float


@dataclass(frozen=True)
class SpectralEntropy:
    """-sum p log p / log(rank) with p = lambda / sum lambda: 1 for a flat spectrum, near 0 where one direction dominates.

    Of the matrix `(out, in / groups * kernel)`. It is computed exactly, so its standard error is zero.

    Source: matrix entropy of weightwatcher (Martin, Mahoney, JMLR 22, 2021).
    Cost: one symmetric eigenvalue problem.
    Fails when: the rank is below 2.
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        """The spectrum of the flattened weight."""
        return (Spectrum("flat"),)

    def __call__(self, observation: Observation) -> Estimate:
        """The normalised entropy; n is the rank."""
        values, _ = pooled_eigenvalues(observation, "flat")
        if values.size < 2:
            return unusable(values.size, f"rank {values.size}: an entropy needs 2 eigenvalues")
        return Estimate(_entropy(values) / math.log(values.size), 0.0, values.size)


@dataclass(frozen=True)
class EffectiveRank:
    """exp(-sum p log p) with p = sigma / sum sigma over singular values: between 1 and the rank.

    It is computed exactly, so its standard error is zero. Less dominated by the largest direction than `stable_rank`.

    Source: Roy, Vetterli, EUSIPCO 2007. (Some public code reports the entropy itself under this name.)
    Cost: one symmetric eigenvalue problem.
    Fails when: all weights are zero.
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        """The spectrum of the flattened weight."""
        return (Spectrum("flat"),)

    def __call__(self, observation: Observation) -> Estimate:
        """The effective rank; n is the number of non-zero singular values."""
        values, _ = pooled_eigenvalues(observation, "flat")
        if values.size == 0:
            return unusable(0, "all weights are zero")
        return Estimate(math.exp(_entropy(np.sqrt(values))), 0.0, values.size)


def _entropy(values: Float[np.ndarray, " n"]) -> float:
    """-sum p log p with p = values / sum values, all positive."""
    p = values / values[-1]  # ascending: no overflow in the sum
    p = p / p.sum()
    p = p[p > 0]
    return float(-(p * np.log(p)).sum()) + 0.0
