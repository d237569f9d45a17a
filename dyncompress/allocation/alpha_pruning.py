"""Sparsity of each layer from its tail exponent: AlphaPruning's linear mapping."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.rule import estimated, place, scaled, shares
from dyncompress.errors import InvalidRequest
from dyncompress.types import Allocator, Profile


@dataclass(frozen=True)
class AlphaPruning:
    """Shares linear in the tail exponents q_l of the layers' spectra:

        S_l = min(1, t * ((1 - epsilon) + 2 epsilon (q_l - q_min) / (q_max - q_min)))

    large exponents (light tails) give up more; a negative epsilon turns that round. The shares are those of `ratios`, to within
    the steps of the layers' options. With `measure = "farms"` it is FARMS, whose exponents are comparable between shapes.

    Source: Lu et al., NeurIPS 2024 (arXiv 2410.10912), epsilon = 0.2 and alpha at the median for image classifiers; Hu et al.,
    ICML 2025 (arXiv 2506.06280), the same mapping on FARMS. Departures: as in `ratios`; for widths, shares of bits.
    Assumes: the tail says how well a layer is trained, and the sign of the rule. For zeros and for widths.
    Fails when: the sign is wrong. On small convolutional nets large exponents weren't the robust layers.

    Attributes:
        epsilon: half the width of the rates, in [-1, 1]; to be tuned, on data that nothing is reported on.
        measure: of the exponents, e.g. `esd_mid`, `esd_peak`, `farms`.
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
        """A common level."""
        return CommonLevel()

    def __call__(self, profile: Profile) -> np.ndarray:
        """The t at which a layer takes each option, `[L, C]`."""
        index = place(estimated(profile, self.measure, "alpha_pruning"))
        rate = 1 - self.epsilon + 2 * self.epsilon * index
        return scaled(shares(profile, "alpha_pruning"), np.maximum(rate, 0.0))


def ratios(indices: np.ndarray, counts: np.ndarray, sparsity: float, epsilon: float) -> np.ndarray:
    """Sparsities in [0, 1] that are linear in the tail exponents and zero the wanted share of all weights.

    With q the indices, p the counts and S the sparsity in all

        r_l = (1 - eps) + 2 eps (q_l - q_min) / (q_max - q_min),    S_l = eta r_l,    eta = S sum p / sum (p r):

    large exponents (light tails) are pruned more. Where a layer's sparsity would pass 1 it is set to 1 and the others are
    scaled again, until all fit (water filling), so the share is always met.

    Source: Lu et al., NeurIPS 2024 (arXiv 2410.10912), and their public code. Departures: equal indices give the uniform
    sparsity (there: not a number); sparsities above 1 are clipped and solved for again (there they are left or only clipped).
    Cost: O(L) for each of at most L rounds.
    Fails when: the sign is wrong for the network. On small convolutional nets large exponents weren't the robust layers.

    Args:
        indices: q, `[L]`, finite.
        counts: p, `[L]`, weights of each layer, positive.
        sparsity: S, in [0, 1].
        epsilon: half the width of r, in [0, 1].

    Returns:
        `[L]` float64.

    Raises:
        InvalidRequest: shapes differ, or a value is out of its range.

    Example:
        >>> ratios(np.array([2.0, 4.0]), np.array([100, 100]), sparsity=0.5, epsilon=0.2).round(6).tolist()
        [0.4, 0.6]
    """
    q, p = np.asarray(indices, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    _check(q, p, sparsity, epsilon)
    wanted = (1 - epsilon) + 2 * epsilon * place(q)
    found = np.ones_like(wanted)
    free = np.ones(q.shape, dtype=bool)
    while free.any():
        left = sparsity * p.sum() - p[~free].sum()
        weight = float(p[free] @ wanted[free])
        found[free] = left / weight * wanted[free] if weight > 0 else left / p[free].sum()
        full = free & (found > 1)
        if not full.any():
            break
        found[full] = 1.0
        free &= ~full
    return found.clip(0.0, 1.0)


def _check(indices: np.ndarray, counts: np.ndarray, sparsity: float, epsilon: float) -> None:
    """Refuse what the mapping can't take."""
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
