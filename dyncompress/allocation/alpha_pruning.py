"""Sparsity of each layer from its tail exponent: AlphaPruning's linear mapping."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.rule import estimates_of, levels_for_rates, relative_position, shares
from dyncompress.errors import InvalidRequest
from dyncompress.types import Allocator, Profile
from dyncompress.types.arrays import Float64


@dataclass(frozen=True)
class AlphaPruning:
    """Shares linear in the tail exponents q_l of the layers' spectra:

        S_l = min(1, t * ((1 - epsilon) + 2 epsilon (q_l - q_min) / (q_max - q_min)))

    Layers with large exponents (light tails) lose more; with a negative epsilon, they lose less. The shares are those of
    `ratios`, up to the granularity of the layers' options. With `measure = "farms"` it is FARMS, whose exponents are comparable
    between shapes.

    Source: Lu et al., NeurIPS 2024 (arXiv 2410.10912), epsilon = 0.2 and alpha at the median for image classifiers; Hu et al.,
    ICML 2025 (arXiv 2506.06280), the same mapping on FARMS. Departures: as in `ratios`; for widths, shares of bits.
    Assumes: the tail shows how well a layer is trained, and well-trained layers are sensitive. It applies to zeros and to bit
    widths.
    Fails when: the sign is wrong. On small convolutional networks, the layers with large exponents weren't the robust ones.

    Attributes:
        epsilon: half the width of the range of rates, in [-1, 1]; tune it on data that no result is reported on.
        measure: the measure of the exponents, e.g. `esd_mid`, `esd_peak` or `farms`.
    """

    epsilon: float = 0.2
    measure: str = "esd_mid"

    def __post_init__(self) -> None:
        """Check the fields."""
        if not -1 <= self.epsilon <= 1:
            raise InvalidRequest(f"allocator.alpha_pruning: epsilon is {self.epsilon}; it must be from -1 to 1.")

    @property
    def measures(self) -> tuple[str, ...]:
        """The tail exponent."""
        return (self.measure,)

    @property
    def solver(self) -> Allocator:
        """The solver: a common level."""
        return CommonLevel()

    def __call__(self, profile: Profile) -> Float64[np.ndarray, "L C"]:
        """The level t at which a layer takes each option, `[L, C]`; inf where it has no such option."""
        index = relative_position(estimates_of(profile, self.measure, "alpha_pruning"))
        rate = 1 - self.epsilon + 2 * self.epsilon * index
        return levels_for_rates(shares(profile, "alpha_pruning"), np.maximum(rate, 0.0))


def ratios(indices: np.ndarray, counts: np.ndarray, sparsity: float, epsilon: float) -> Float64[np.ndarray, " L"]:
    """Sparsities in [0, 1], linear in the tail exponents, at which a given share of all weights is zero.

    With q the indices, p the counts and S the sparsity of the model

        r_l = (1 - eps) + 2 eps (q_l - q_min) / (q_max - q_min),    S_l = eta r_l,    eta = S sum p / sum (p r):

    Layers with large exponents (light tails) are pruned more. A sparsity above 1 is set to 1 and the others are scaled again,
    until none is above 1 (water filling), so that the share is always met.

    Source: Lu et al., NeurIPS 2024 (arXiv 2410.10912), and their public code. Departures: equal indices give the uniform
    sparsity (theirs is NaN); sparsities above 1 are clipped and the others solved again (theirs are left, or only clipped).
    Cost: O(L) for each of at most L rounds.
    Fails when: the sign is wrong. On small convolutional networks, the layers with large exponents weren't the robust ones.

    Args:
        indices: q, `[L]`, tail exponents, finite.
        counts: p, `[L]`, numbers of weights, positive.
        sparsity: S, in [0, 1].
        epsilon: half the width of r, in [0, 1].

    Returns:
        The sparsities `[L]`, float64.

    Raises:
        InvalidRequest: shapes differ, or a value is out of its range.

    Example:
        >>> ratios(np.array([2.0, 4.0]), np.array([100, 100]), sparsity=0.5, epsilon=0.2).round(6).tolist()
        [0.4, 0.6]
    """
    q, p = np.asarray(indices, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    _check(q, p, sparsity, epsilon)
    rate = (1 - epsilon) + 2 * epsilon * relative_position(q)
    sparsities = np.ones_like(rate)
    free = np.ones(q.shape, dtype=bool)
    while free.any():
        zeros = sparsity * p.sum() - p[~free].sum()
        weight = float(p[free] @ rate[free])
        sparsities[free] = zeros / weight * rate[free] if weight > 0 else zeros / p[free].sum()
        full = free & (sparsities > 1)
        if not full.any():
            break
        sparsities[full] = 1.0
        free &= ~full
    return sparsities.clip(0.0, 1.0)


def _check(indices: np.ndarray, counts: np.ndarray, sparsity: float, epsilon: float) -> None:
    """Check the arguments of `ratios`."""
    if indices.ndim != 1 or indices.shape != counts.shape or not indices.size:
        raise InvalidRequest(
            f"alpha_pruning: {indices.shape} indices for {counts.shape} counts; give one of each for every layer."
        )
    if not np.isfinite(indices).all():
        raise InvalidRequest("alpha_pruning: an index is NaN or infinite; leave out layers without a tail exponent.")
    if not (counts > 0).all():
        raise InvalidRequest(f"alpha_pruning: a layer has {counts.min():g} weights; leave out layers without weights.")
    if not (0 <= sparsity <= 1 and 0 <= epsilon <= 1):
        raise InvalidRequest(f"alpha_pruning: sparsity {sparsity}, epsilon {epsilon}; both must lie between 0 and 1.")
