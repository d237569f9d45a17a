"""The trace of a layer's Hessian: its average curvature."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dyncompress.measures.border import as_float64, require, unusable
from dyncompress.types import Estimate, HessianSpectrum, Need, Observation


@dataclass(frozen=True)
class HessianTrace:
    """tr H / N, the mean eigenvalue of the layer's own block of the loss's Hessian, over batches.

    To second order, it predicts the effect of rounding: errors of variance v add v / 2 * tr H to the loss.

    Source: Dong et al., HAWQ-V2, NeurIPS 2020, who rank layers by it; by stochastic Lanczos quadrature, of which the trace is
    Hutchinson's estimate.
    Assumes: the model's own predictions serve as labels. Then the loss is curved only where the outputs are uncertain. `stderr`
    is over batches and includes the variance of the random vectors.
    Cost: nodes * batches Hessian-vector products (shared with `sharpness_dimension` of the same fields).
    Fails when: there is only one batch (no standard error).

    Attributes:
        nodes: number of Lanczos steps, i.e. of nodes of the Hessian's spectrum, for each batch.
        batches: number of batches.
    """

    nodes: int = 20
    batches: int = 4

    def __post_init__(self) -> None:
        """Check the fields."""
        require(self.nodes >= 2, "hessian_trace", "nodes", self.nodes, "at least 2")
        require(self.batches >= 1, "hessian_trace", "batches", self.batches, "at least 1")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The Hessian's spectrum."""
        return (HessianSpectrum(self.nodes, self.batches),)

    def __call__(self, observation: Observation) -> Estimate:
        """The mean eigenvalue; n is the number of batches."""
        values, counts = (as_float64(part) for part in observation[self.needs[0]])
        if values.size == 0 or counts.sum() <= 0:
            return unusable(0, "no batch gave a Hessian")
        means = (values * counts).sum(axis=1) / counts.sum(axis=1)
        if len(means) < 2:
            return Estimate(float(means[0]), math.nan, 1, valid=False, notes=("no standard error from one batch",))
        return Estimate(float(means.mean()), float(means.std(ddof=1)) / math.sqrt(len(means)), len(means))
