"""HAWQ: squared errors of the weights, weighted by the mean curvature of their layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.knapsack import Knapsack
from dyncompress.allocation.rule import changes, estimates_of, table_of
from dyncompress.types import Allocator, Profile
from dyncompress.types.arrays import Float64


@dataclass(frozen=True)
class HAWQ:
    """The plan with the smallest sum_l mean eigenvalue of H_l * ||W_l - W_l'||^2 within the budget.

    Source: Dong et al., HAWQ-V2, NeurIPS 2020 (arXiv 1911.03852); solved as an integer program as in HAWQ-V3, Yao et al., ICML
    2021. The error is that of the recipe's own pruner and quantizer; a negative curvature, which at a
    minimum is noise, counts as zero.
    Assumes: errors in random directions of the Hessian; layers don't interact. It applies to zeros, bit widths, steps and their
    combinations.
    """

    @property
    def measures(self) -> tuple[str, ...]:
        """The mean eigenvalue of the layer's Hessian."""
        return ("hessian_trace",)

    @property
    def solver(self) -> Allocator:
        """The solver: a knapsack, because the table holds distortions that add up."""
        return Knapsack()

    def __call__(self, profile: Profile) -> Float64[np.ndarray, "L C"]:
        """Curvature times squared error, `[L, C]`; inf where a layer has no such option."""
        curvature = np.maximum(estimates_of(profile, "hessian_trace", "hawq"), 0.0)
        squared = table_of([[change.energy * change.error for change in row] for row in changes(profile, "hawq")])
        return np.where(np.isfinite(squared), curvature[:, None] * np.where(np.isfinite(squared), squared, 0.0), np.inf)
