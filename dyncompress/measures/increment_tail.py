"""The tail index of the changes of a layer's weights late in training."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dyncompress.measures.block_sum import block_sum_index
from dyncompress.measures.border import as_float64, require, unusable
from dyncompress.measures.distances import all_finite
from dyncompress.types import Estimate, Iterates, Need, Observation
from dyncompress.types.arrays import Float

FEW = 4.0  # over the number of vectors: the error of the index by centring with their own median, measured with 20 to 1 000


@dataclass(frozen=True)
class IncrementTail:
    """The alpha-stable index of the increments w_(t+1) - w_t between late records: 2 for Gaussian steps, less for heavier tails.

    The increments are vectors. The estimator is that of `block_sum` with Euclidean norms: 1 / alpha = (mean log|Y| - mean log|X|)
    / log m for sums Y over blocks of m increments X, centred by the medians of their columns and shuffled. Sketches are linear
    and therefore have the same alpha.

    Source: Simsekli, Sener, Deligiannidis, Erdogdu, NeurIPS 2020: where training follows a decomposable Feller process, its
    Blumenthal-Getoor index bounds the Hausdorff dimension of the trajectory; the estimator is that of Mohammadi,
    Mohammadpour, Ogata, Metrika 78 (2015).
    Assumes: all increments have the same symmetric stable law, which needs a constant learning rate and no drift.
    Cost: O(T d) for each block length and shuffle.
    Fails when: steps grow or shrink along the record (a mixture of sizes gives less than 2 even if every step is Gaussian);
    iterates don't move; T is small (the standard error shows it, with 4 / T for the median that is taken off). Whether
    gradient noise is alpha-stable at usual batch sizes is disputed. The bound of the paper contains constants that can't be
    computed.

    Attributes:
        seed: seed of the shuffles.
        permutations: number of shuffles, of whose indices the median is returned.
    """

    seed: int = 0
    permutations: int = 5

    def __post_init__(self) -> None:
        """Check the fields."""
        require(self.permutations >= 1, "increment_tail", "permutations", self.permutations, "at least 1")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The late iterates."""
        return (Iterates(),)

    def __call__(self, observation: Observation) -> Estimate:
        """The index of the layer's increments."""
        points = observation[Iterates()]
        if not all_finite(points):
            return unusable(len(points), "the iterates hold NaN or infinity")
        return row_index(np.diff(as_float64(points), axis=0), self.seed, self.permutations)


def row_index(rows: Float[np.ndarray, "n d"], seed: int = 0, permutations: int = 5) -> Estimate:
    """The alpha-stable index of `rows` `[n, d]`, in any units.

    Example:
        >>> steps = np.random.default_rng(0).standard_normal((2000, 30))
        >>> abs(row_index(steps).value - 2) < 0.1
        True
    """
    largest = np.abs(rows).max(initial=0.0)
    estimate = block_sum_index(rows / largest if largest > 0 else rows, seed, permutations)
    return replace(estimate, stderr=math.hypot(estimate.stderr, FEW / max(estimate.n, 1)))
