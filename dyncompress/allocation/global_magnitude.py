"""One magnitude below which the weights of all layers go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.rule import changes, table_of, zeros_only
from dyncompress.types import Allocator, Profile


@dataclass(frozen=True)
class GlobalMagnitude:
    """Weights below one magnitude t go, in whatever layer: S_l = the share of weights with |w| <= t.

    Source: global pruning, e.g. Han et al., NeurIPS 2015; Frankle and Carbin, ICLR 2019. Here of the weights that are stored,
    into which normalisation layers were folded.
    Assumes: weights of all layers are on one scale. Zeros alone.
    Fails when: they aren't: the layer with the smallest weights collapses.
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
        """The largest magnitude that each option zeroes, `[L, C]`."""
        zeros_only(profile, "global_magnitude")
        return table_of([[change.threshold for change in row] for row in changes(profile, "global_magnitude")])
