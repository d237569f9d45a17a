"""Shares of zeros or bits that rise in equal steps from the first layer to the last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.rule import shares
from dyncompress.errors import InvalidRequest
from dyncompress.types import Allocator, Profile
from dyncompress.types.arrays import Float64


@dataclass(frozen=True)
class DepthLinear:
    """An arithmetic progression over the depth: S_l = t + rise * l / (L - 1), l = 0 ... L - 1.

    Errors of early layers propagate through all later ones, so early layers lose less. The rule has one parameter, and its source
    reports better results than those of rules that use weights and data. Shares are clipped to the range of a layer's options.

    Source: Huang et al., ICML 2025 (arXiv 2502.14770), whose common difference is rise / (L - 1). Departures: t meets the budget
    with layers of different sizes (theirs are blocks of one size), and shares may be of bits instead of zeros.
    Assumes: depth is the order of the forward pass, counted over the layers with options. It applies to zeros and to bit widths.

    Attributes:
        rise: share of the last layer minus that of the first, in [-1, 1]; with a negative one, later layers lose less.
    """

    rise: float = 0.2

    def __post_init__(self) -> None:
        """Check the field."""
        if not -1 <= self.rise <= 1:
            raise InvalidRequest(f"allocator.depth_linear: rise is {self.rise}; it must be from -1 to 1.")

    @property
    def measures(self) -> tuple[str, ...]:
        """No measure is needed."""
        return ()

    @property
    def solver(self) -> Allocator:
        """The solver: a common level."""
        return CommonLevel()

    def __call__(self, profile: Profile) -> Float64[np.ndarray, "L C"]:
        """The level t at which a layer takes each option, `[L, C]`; inf where it has no such option."""
        share = shares(profile, "depth_linear")
        return share - self.rise * np.linspace(0, 1, len(share))[:, None]
