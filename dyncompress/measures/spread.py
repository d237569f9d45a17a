"""How unequal the dominant rows or singular values of a layer are among themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import require, unusable
from dyncompress.measures.structured_compressibility import row_norms, singular_values
from dyncompress.types import Estimate, Need, Observation, Spectrum, Weight
from dyncompress.types.arrays import Float


@dataclass(frozen=True)
class RowSpread:
    """beta = 1 - v_(k) / v_(1) of the rows' l1 norms in descending order: 0 if the k largest are equal, near 1 if one dominates.

    With eps of `row_compressibility` at q = 1: max_i v_i <= (1 - eps) / (1 - beta) * ||v||_1 / k, since the k largest are at
    least (1 - beta) v_(1) each and add up to (1 - eps) ||v||_1. So the largest row of a compressible layer with a small spread is
    bounded, while a layer with a large spread may have a few very sensitive directions.

    Source: the spread of Barsbey, Ribeiro, Simsekli, Birdal, arXiv 2507.17725, in the form that the inequality above needs.
    Cost: O(N).
    Fails when: all weights are zero. It is computed exactly, so its standard error is zero.

    Attributes:
        keep: k / out, in (0, 1].
    """

    keep: float = 0.1

    def __post_init__(self) -> None:
        """Check the fields."""
        require(0 < self.keep <= 1, "row_spread", "keep", self.keep, "above 0 and at most 1")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight."""
        return (Weight(),)

    def __call__(self, observation: Observation) -> Estimate:
        """beta among the k = ceil(keep * out) largest rows."""
        return top_spread(row_norms(observation), self.keep)


@dataclass(frozen=True)
class SpectralSpread:
    """beta = 1 - sigma_(k) / sigma_(1) of the singular values in descending order.

    With eps of `spectral_compressibility` at q = 1: ||W||_2 <= (1 - eps) / (1 - beta) * (sum sigma) / k.

    Source, fails when: as `row_spread`. Of the matrix `(out, in / groups * kernel)`.
    Cost: one symmetric eigenvalue problem.

    Attributes:
        keep: k / min(out, fan_in), in (0, 1].
    """

    keep: float = 0.1

    def __post_init__(self) -> None:
        """Check the fields."""
        require(0 < self.keep <= 1, "spectral_spread", "keep", self.keep, "above 0 and at most 1")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The spectrum of the flattened weight."""
        return (Spectrum("flat"),)

    def __call__(self, observation: Observation) -> Estimate:
        """beta among the k = ceil(keep * min(out, fan_in)) largest singular values."""
        return top_spread(singular_values(observation), self.keep)


def top_spread(values: Float[np.ndarray, " n"], keep: float) -> Estimate:
    """1 - smallest / largest among the ceil(keep * n) largest of the non-negative `values` `[n]`.

    Example:
        >>> import numpy as np
        >>> top_spread(np.array([1.0, 8.0, 2.0, 4.0]), keep=0.5).value
        0.5
    """
    largest = values.max(initial=0.0)
    if largest == 0:
        return unusable(values.size, "all weights are zero")
    count = math.ceil(keep * values.size - 1e-9)
    smallest = np.partition(values, values.size - count)[values.size - count]
    return Estimate(float(1 - smallest / largest), 0.0, count)
