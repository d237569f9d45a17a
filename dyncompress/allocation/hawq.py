"""HAWQ: squared errors of the weights, weighed by the mean curvature of their layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.knapsack import Knapsack
from dyncompress.allocation.rule import changes, estimated, table_of
from dyncompress.types import Allocator, Profile


@dataclass(frozen=True)
class HAWQ:
    """The plan with the smallest sum_l mean eigenvalue of H_l * ||W_l - W_l'||^2 within the budget.

    Source: Dong et al., HAWQ-V2, NeurIPS 2020 (arXiv 1911.03852); solved as an integer program as in HAWQ-V3, Yao et al., ICML
    2021. The error is that of the recipe's own pruner and quantizer; a negative curvature, noise at a minimum, counts as zero.
    Assumes: errors that don't know the Hessian's directions, one layer at a time. For zeros, widths, steps, and all together.
    """

    @property
    def measures(self) -> tuple[str, ...]:
        """The mean eigenvalue of the layer's Hessian."""
        return ("hessian_trace",)

    @property
    def solver(self) -> Allocator:
        """A knapsack: its table is a sum of harms."""
        return Knapsack()

    def __call__(self, profile: Profile) -> np.ndarray:
        """Curvature times squared error, `[L, C]`."""
        curvature = np.maximum(estimated(profile, "hessian_trace", "hawq"), 0.0)
        squared = table_of([[change.energy * change.error for change in row] for row in changes(profile, "hawq")])
        return np.where(np.isfinite(squared), curvature[:, None] * np.where(np.isfinite(squared), squared, 0.0), np.inf)
