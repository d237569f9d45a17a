"""The stable rank of a layer's weight matrix."""

from __future__ import annotations

from dataclasses import dataclass

from dyncompress.measures.border import unusable
from dyncompress.measures.esd_alpha import pooled_eigenvalues
from dyncompress.types import Estimate, Need, Observation, Spectrum


@dataclass(frozen=True)
class StableRank:
    """||W||_F^2 / ||W||_2^2, between 1 and the rank: the number of directions over which the squared norm is spread.

    Of the matrix `(out, in / groups * kernel)`. It is computed exactly, so its standard error is zero.

    Source: Rudelson, Vershynin, Journal of the ACM 54 (2007).
    Cost: one symmetric eigenvalue problem.
    Fails when: all weights are zero.
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        """The spectrum of the flattened weight."""
        return (Spectrum("flat"),)

    def __call__(self, observation: Observation) -> Estimate:
        """The stable rank; n is the number of non-zero eigenvalues."""
        values, _ = pooled_eigenvalues(observation, "flat")
        if values.size == 0:
            return unusable(0, "all weights are zero")
        return Estimate(float((values / values[-1]).sum()), 0.0, values.size)
