"""OWL: layers with more outliers among |weight| times input keep more weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.rule import estimates_of, relative_position, zeros_only
from dyncompress.errors import InvalidRequest
from dyncompress.types import Allocator, Profile
from dyncompress.types.arrays import Float64


@dataclass(frozen=True)
class OWL:
    """Shares of zeros fall with the share D_l of outliers (measure `outlier_ratio`), within a band of 2 * width:

        S_l = t - 2 width (D_l - D_min) / (D_max - D_min), clipped to the range of a layer's options

    Source: Yin et al., ICML 2024 (arXiv 2310.05175) and their public code, lambda = 0.08 and outliers above 5 times the mean.
    Departures: every layer has a share (theirs is one for each transformer block), and t follows from the number of weights, not
    of layers.
    Assumes: layers with outliers are sensitive, as in large language models. It applies to zeros only.

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
        """The measure that the rule needs: the share of outliers."""
        return ("outlier_ratio",)

    @property
    def solver(self) -> Allocator:
        """The solver: a common level."""
        return CommonLevel()

    def __call__(self, profile: Profile) -> Float64[np.ndarray, "L C"]:
        """The level t at which a layer takes each option, `[L, C]`; inf where it has no such option."""
        outliers = relative_position(estimates_of(profile, "outlier_ratio", "owl"))
        return zeros_only(profile, "owl") + 2 * self.width * outliers[:, None]
