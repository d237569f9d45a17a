"""OWL: layers with more outliers among |weight| times input keep more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.rule import estimated, place, zeros_only
from dyncompress.errors import InvalidRequest
from dyncompress.types import Allocator, Profile


@dataclass(frozen=True)
class OWL:
    """Shares of zeros fall with the share D_l of outliers (measure `outlier_ratio`), within a band of 2 * width:

        S_l = t - 2 width (D_l - D_min) / (D_max - D_min), clipped to what a layer's options allow

    Source: Yin et al., ICML 2024 (arXiv 2310.05175) and their public code, lambda = 0.08 and outliers above 5 times the mean.
    Departures: layer by layer (there one share a transformer block), and t is set by the weights' number, not the layers'.
    Assumes: outliers mark what must stay, as in large language models. Zeros alone.

    Attributes:
        width: lambda, half the width of the band, in [0, 0.5].
    """

    width: float = 0.08

    def __post_init__(self) -> None:
        """Check the field."""
        if not 0 <= self.width <= 0.5:
            raise InvalidRequest(f"allocator.owl: width is {self.width}; it must be from 0 to 0.5.")

    @property
    def measures(self) -> tuple[str, ...]:
        """The share of outliers."""
        return ("outlier_ratio",)

    @property
    def solver(self) -> Allocator:
        """A common level."""
        return CommonLevel()

    def __call__(self, profile: Profile) -> np.ndarray:
        """The t at which a layer takes each option, `[L, C]`."""
        outliers = place(estimated(profile, "outlier_ratio", "owl"))
        return zeros_only(profile, "owl") + 2 * self.width * outliers[:, None]
