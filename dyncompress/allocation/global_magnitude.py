"""One magnitude for all layers, below which weights become zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.rule import changes, table_of, zeros_only
from dyncompress.types import Allocator, Profile
from dyncompress.types.arrays import Float64


@dataclass(frozen=True)
class GlobalMagnitude:
    """Weights of magnitude at most t become zero in all layers: S_l = the share of weights with |w| <= t.

    Source: global pruning, e.g. Han et al., NeurIPS 2015; Frankle and Carbin, ICLR 2019. Here w are the weights as stored,
    after normalisation layers were folded into them.
    Assumes: weights of all layers have the same scale. It applies to zeros only.
    Fails when: the scales differ: the layer with the smallest weights collapses.
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
        """The largest magnitude that each option sets to zero, `[L, C]`."""
        zeros_only(profile, "global_magnitude")
        return table_of([[change.threshold for change in row] for row in changes(profile, "global_magnitude")])
