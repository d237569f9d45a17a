"""The relative error of keeping only the largest weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import flat_weights, require, unusable
from dyncompress.types import Estimate, Need, Observation, Weight
from dyncompress.types.arrays import Float


@dataclass(frozen=True)
class Compressibility:
    """e_p(kappa) = ||w - w_k||_p / ||w||_p where w_k keeps the k = ceil(kappa N) largest |w|: 0 if the other weights are zero.

    It is computed exactly, so its standard error is zero. For independent weights with finite p-th
    moment it tends to a constant (p = 2, kappa = 0.1: 0.749 for Gaussian, 0.636 for Laplace weights); with an infinite one it
    tends to 0 as the layer grows.

    Source: Gribonval, Cevher, Davies, IEEE Transactions on Information Theory 58 (2012); Barsbey et al., NeurIPS 2021.
    Cost: O(N).
    Fails when: all weights are zero.

    Attributes:
        keep: kappa, the share of weights kept, in (0, 1].
        power: p.
    """

    keep: float = 0.1
    power: float = 2.0

    def __post_init__(self) -> None:
        """Check the fields."""
        require(0 < self.keep <= 1, "compressibility", "keep", self.keep, "above 0 and at most 1")
        require(0 < self.power < math.inf, "compressibility", "power", self.power, "above 0")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight."""
        return (Weight(),)

    def __call__(self, observation: Observation) -> Estimate:
        """The relative error at `keep`."""
        return relative_pruning_error(flat_weights(observation), self.keep, self.power)


def relative_pruning_error(weights: Float[np.ndarray, " n"], keep: float, power: float = 2.0) -> Estimate:
    """e_p(kappa) of `weights` `[n]`, with kappa = `keep` in (0, 1] and p = `power`.

    Example:
        >>> import numpy as np
        >>> relative_pruning_error(np.array([4.0, 0.0, -3.0, 0.0]), keep=0.25).value
        0.6
    """
    sizes = np.abs(weights)
    largest = sizes.max(initial=0.0)
    if largest == 0:
        return unusable(sizes.size, "all weights are zero")
    # 1e-9: keep * N may be an integer whose float lies just above it
    removed = sizes.size - math.ceil(keep * sizes.size - 1e-9)
    energy = (sizes / largest) ** power
    small = np.partition(energy, removed - 1)[:removed] if removed else energy[:0]
    return Estimate(float((small.sum() / energy.sum()) ** (1 / power)), 0.0, sizes.size)
