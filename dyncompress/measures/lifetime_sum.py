"""The alpha-weighted lifetime sum of a trajectory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import require, unusable
from dyncompress.measures.distances import all_finite, euclidean_distances
from dyncompress.measures.spanning_tree import tree_lengths
from dyncompress.types import Estimate, Iterates, Need, Observation
from dyncompress.types.arrays import Float

FEWEST = 2


@dataclass(frozen=True)
class LifetimeSum:
    """E_alpha = sum of lifetime^alpha over the degree-0 persistent homology of the late iterates, without a fit.

    The lifetimes are the edges of the minimum spanning tree. For alpha = 1 the sum is its length, in the units of the weights.

    Source: Andreeva, Dupuis, Sarkar, Birdal, Simsekli, NeurIPS 2024.
    Cost: T^2 d / 2 for the distances, T^2 for the tree.
    Fails when: runs of different T, stride or learning rate are compared: it grows as T^(1 - alpha / dim) and with the size of
    the steps, so between runs it mostly reflects learning rate and batch size. There is no standard error, because one trajectory
    gives one number. The bound of the paper contains a mutual information and a Lipschitz constant that can't be computed.

    Attributes:
        alpha: exponent of the lifetimes.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields."""
        require(self.alpha > 0, "lifetime_sum", "alpha", self.alpha, "above 0")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The late iterates."""
        return (Iterates(),)

    def __call__(self, observation: Observation) -> Estimate:
        """The lifetime sum of the layer's trajectory."""
        points = observation[Iterates()]
        if len(points) < FEWEST:
            return unusable(len(points), f"{len(points)} iterates; the lifetime sum needs {FEWEST}")
        if not all_finite(points):
            return unusable(len(points), "the iterates hold NaN or infinity")
        return lifetime_sum(euclidean_distances(points), self.alpha)


def lifetime_sum(distances: Float[np.ndarray, "T T"], alpha: float = 1.0) -> Estimate:
    """The lifetime sum of T points with `distances` `[T, T]`, of any pseudo-metric.

    Example:
        >>> lifetime_sum(np.array([[0.0, 3.0, 5.0], [3.0, 0.0, 4.0], [5.0, 4.0, 0.0]])).value
        7.0
    """
    total = float(np.sum(tree_lengths(distances) ** alpha))
    notes = ("no standard error: one number of one trajectory",)
    if total == 0:
        notes = ("all iterates are equal", *notes)
    return Estimate(total, math.nan, len(distances), valid=total > 0, notes=notes)
