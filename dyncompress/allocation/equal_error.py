"""The same relative error for every layer: epsilon-pruning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.rule import changes, table_of
from dyncompress.types import Allocator, Profile
from dyncompress.types.arrays import Float64


@dataclass(frozen=True)
class EqualError:
    """Every layer has the same relative error, ||W_l - W_l'||^2 / ||W_l||^2 = t, as nearly as its options allow.

    At the same error, layers with heavy tails keep fewer weights, and no layer collapses. The error is that of the recipe's own
    pruner and quantizer.

    Source: the common epsilon of (q, k, epsilon)-compressibility in Barsbey, Ribeiro, Simsekli, Birdal, arXiv 2507.17725.
    Assumes: equal relative errors of layers have equal distortion. It applies to zeros, bit widths, steps and their combinations.
    """

    @property
    def measures(self) -> tuple[str, ...]:
        """No measure is needed."""
        return ()

    @property
    def solver(self) -> Allocator:
        """The solver: a common level."""
        return CommonLevel()

    def __call__(self, profile: Profile) -> Float64[np.ndarray, "L C"]:
        """Relative squared errors, `[L, C]`."""
        return table_of([[change.error for change in row] for row in changes(profile, "equal_error")])
