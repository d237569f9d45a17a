"""Shares at random: what any unevenness of a plan is worth by itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.rule import shares, weights_of
from dyncompress.errors import InvalidRequest
from dyncompress.types import Allocator, Profile


@dataclass(frozen=True)
class RandomShare:
    """S_l = t + spread * z_l, z standard normal and then standardised over the layers, each counted by its weights.

    Before clipping to what the layers' options allow, the shares have exactly this standard deviation. Set it to that of a
    rival's plan (`spread_of`) and average over seeds: a rule that doesn't beat this owes nothing to what it reads.

    Source: the null model of matched variance; ours. For zeros and for widths.

    Attributes:
        spread: standard deviation of the shares over the weights, in [0, 0.5].
        seed: of the draw.
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
        """None."""
        return ()

    @property
    def solver(self) -> Allocator:
        """A common level."""
        return CommonLevel()

    def __call__(self, profile: Profile) -> np.ndarray:
        """The t at which a layer takes each option, `[L, C]`."""
        share, weights = shares(profile, "random_share"), weights_of(profile)
        drawn = np.random.default_rng(self.seed).standard_normal(len(share))
        width = spread_of(drawn, weights)
        scores = (drawn - np.average(drawn, weights=weights)) / (width or 1.0)
        return share - self.spread * scores[:, None]


def spread_of(shares: np.ndarray, weights: np.ndarray) -> float:
    """Standard deviation of the layers' shares `[L]`, each layer counted by its number of weights `[L]`.

    Example:
        >>> spread_of(np.array([0.5, 0.7]), np.array([100, 100])).__round__(6)
        0.1
    """
    mean = np.average(shares, weights=weights)
    return float(np.sqrt(np.average(np.square(shares - mean), weights=weights)))
