"""The plainest rule: the same share of zeros, or of bits, for every layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.rule import shares
from dyncompress.types import Allocator, Profile


@dataclass(frozen=True)
class EqualShare:
    """Every layer gives up the same share of its bits: S_l = t.

    A layer whose options stop below t stays at its boldest one, and t rises for the others. Unlike `uniform`, which goes by the
    rank of an option in its layer's list, it compares shares, and its ties use the budget up.

    Assumes: nothing. For zeros and for widths.
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
        """The shares themselves, `[L, C]`."""
        return shares(profile, "equal_share")
