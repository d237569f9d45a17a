"""Random shares: the baseline for any plan with uneven shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.rule import shares, weights_of
from dyncompress.errors import InvalidRequest
from dyncompress.types import Allocator, Profile
from dyncompress.types.arrays import Float, Float64, Real


@dataclass(frozen=True)
class RandomShare:
    """S_l = t + spread * z_l with z standard normal, then standardised over the layers, which count by their numbers of weights.

    Before clipping to the range of the layers' options, the shares have exactly this standard deviation. Set it to that of
    another rule's plan (`spread_of`) and average over seeds: a rule that isn't better gains nothing from what it measures.

    Source: ours, a baseline of matched variance. It applies to zeros and to bit widths.

    Attributes:
        spread: standard deviation of the shares over the weights, in [0, 0.5].
        seed: seed of the draw, at least 0.
    """

    spread: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the fields."""
        if not 0 <= self.spread <= 0.5:
            raise InvalidRequest(f"allocator.random_share: spread is {self.spread}; it must be from 0 to 0.5.")
        if self.seed < 0:
            raise InvalidRequest(f"allocator.random_share: seed is {self.seed}; it must be at least 0.")

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
        share, weights = shares(profile, "random_share"), weights_of(profile)
        draws = np.random.default_rng(self.seed).standard_normal(len(share))
        width = spread_of(draws, weights)
        scores = (draws - np.average(draws, weights=weights)) / (width or 1.0)
        return share - self.spread * scores[:, None]


def spread_of(shares: Float[np.ndarray, " L"], weights: Real[np.ndarray, " L"]) -> float:
    """Standard deviation of the layers' shares `[L]`, each layer counted by its number of weights `[L]`.

    Example:
        >>> spread_of(np.array([0.5, 0.7]), np.array([100, 100])).__round__(6)
        0.1
    """
    mean = np.average(shares, weights=weights)
    return float(np.sqrt(np.average(np.square(shares - mean), weights=weights)))
