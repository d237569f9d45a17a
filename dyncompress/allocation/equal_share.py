"""The simplest rule: the same share of zeros, or of bits, is removed from every layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.rule import shares
from dyncompress.types import Allocator, Profile
from dyncompress.types.arrays import Float64


@dataclass(frozen=True)
class EqualShare:
    """Every layer loses the same share of its bits: S_l = t.

    A layer without an option as bold as t takes its boldest one, and t rises for the others. Unlike `uniform`, which compares the
    ranks of options in the lists of their layers, it compares shares, and where layers tie, it uses the rest of the budget.

    Assumes: nothing. It applies to zeros and to bit widths.
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
        """The share of bits that each option removes, `[L, C]`; inf where a layer has no such option."""
        return shares(profile, "equal_share")
