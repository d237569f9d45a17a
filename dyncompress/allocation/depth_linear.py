"""Shares that rise in equal steps from the first layer to the last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.rule import shares
from dyncompress.errors import InvalidRequest
from dyncompress.types import Allocator, Profile


@dataclass(frozen=True)
class DepthLinear:
    """An arithmetic progression over the depth: S_l = t + rise * l / (L - 1), l = 0 ... L - 1.

    Errors of early layers pass through all later ones, so early layers give up less; one number, and reported to beat rules
    that read weights and data. Shares below 0 become 0, those above what a layer's options allow stay there.

    Source: Huang et al., ICML 2025 (arXiv 2502.14770), whose common difference is rise / (L - 1). Departures: t meets the budget
    with layers of different sizes (there blocks of one size), and widths may take the place of zeros.
    Assumes: depth is the order of the forward pass, counted over the layers that are chosen for. For zeros and for widths.

    Attributes:
        rise: share of the last layer less that of the first, in [-1, 1]; negative: later layers give up less.
    """

    rise: float = 0.2

    def __post_init__(self) -> None:
        """Check the field."""
        if not -1 <= self.rise <= 1:
            raise InvalidRequest(f"allocator.depth_linear: rise is {self.rise}; it must be from -1 to 1.")

    @property
    def measures(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def solver(self) -> Allocator:
        """A common level."""
        return CommonLevel()

    def __call__(self, profile: Profile) -> np.ndarray:
        """The t at which a layer takes each option, `[L, C]`."""
        share = shares(profile, "depth_linear")
        return share - self.rise * np.linspace(0, 1, len(share))[:, None]
