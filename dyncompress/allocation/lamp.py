"""LAMP: magnitudes, made comparable between layers by the energy of each layer's larger weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.rule import changes, table_of, zeros_only
from dyncompress.types import Allocator, Profile
from dyncompress.types.arrays import Float64


@dataclass(frozen=True)
class LAMP:
    """Weights with a score below t become zero in all layers. With the weights of a layer in ascending order of magnitude,

        score(u) = w_u^2 / sum_{v >= u} w_v^2,

    the relative squared error of setting u to zero after all smaller ones. The largest weight of a layer has the score 1, so that
    no layer becomes empty.

    Source: Lee et al., ICLR 2021 (arXiv 2010.07611). Here w are the weights as stored, after normalisation layers were
    folded into them; the score doesn't depend on a layer's scale.
    Assumes: the model's distortion may be minimised greedily, one layer at a time. It applies to zeros only.
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
        """The largest score that each option sets to zero, `[L, C]`."""
        zeros_only(profile, "lamp")
        return table_of(
            [[one.threshold**2 / one.left if one.left > 0 else 0.0 for one in row] for row in changes(profile, "lamp")]
        )
