"""LAMP: magnitudes made comparable between layers by what is left of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.rule import changes, table_of, zeros_only
from dyncompress.types import Allocator, Profile


@dataclass(frozen=True)
class LAMP:
    """Weights of a score below t go, in whatever layer, where with the weights of a layer in ascending order of magnitude

        score(u) = w_u^2 / sum_{v >= u} w_v^2,

    the relative squared error of zeroing u after all smaller ones are gone. The last weight of a layer scores 1: none is
    emptied.

    Source: Lee et al., ICLR 2021 (arXiv 2010.07611). Here of the weights that are stored, into which normalisation layers were
    folded; the score itself is free of a layer's scale.
    Assumes: the greedy choice of the model-level distortion of one layer at a time. Zeros alone.
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
        """The largest score that each option zeroes, `[L, C]`."""
        zeros_only(profile, "lamp")
        return table_of(
            [[one.threshold**2 / one.left if one.left > 0 else 0.0 for one in row] for row in changes(profile, "lamp")]
        )
