"""One relative error for every layer: epsilon-pruning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.rule import changes, table_of
from dyncompress.types import Allocator, Profile


@dataclass(frozen=True)
class EqualError:
    """Every layer loses the same share of its energy: ||W_l - W_l'||^2 / ||W_l||^2 = t, as near as its options come.

    Layers with heavy tails keep fewer weights for the same error, and no layer collapses. The error is that of the recipe's own
    pruner and quantizer.

    Source: the common epsilon of (q, k, epsilon)-compressibility in Barsbey, Ribeiro, Simsekli, Birdal, arXiv 2507.17725.
    Assumes: relative errors of all layers do the same harm. For zeros, widths, steps, and all of them together.
    """

    @property
    def measures(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def solver(self) -> Allocator:
        """A common level."""
        return CommonLevel()

    def __call__(self, profile: Profile) -> np.ndarray:
        """Relative squared errors, `[L, C]`."""
        return table_of([[change.error for change in row] for row in changes(profile, "equal_error")])
