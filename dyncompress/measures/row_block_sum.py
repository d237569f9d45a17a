"""The alpha-stable index of a layer's weight vectors, from sums over blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.measures.block_sum import block_sum_index
from dyncompress.measures.border import as_float64, require
from dyncompress.types import Estimate, Need, Observation, Weight


@dataclass(frozen=True)
class RowBlockSum:
    """The index alpha of a multivariate stable law: `block_sum` with vectors and Euclidean norms in place of numbers.

    Vectors are the kernels `(kernel,)` of a convolution, `out * in / groups` of them, and the rows `(in,)` of a linear layer;
    their medians by column are subtracted.

    Source: Mohammadi, Mohammadpour, Ogata, Metrika 78 (2015), any dimension; vectors as in Barsbey et al., NeurIPS 2021 (who
    transpose the last layer, which this measure doesn't).
    Assumes: independent vectors of a strictly stable law. Like `block_sum`, it isn't a test for heavy tails.
    Cost: O(N) for each block length.
    Fails when: there are fewer than 1000 vectors, as in many linear layers (invalid); many vectors are zero or equal.

    Attributes:
        seed: seed of the shuffles.
        permutations: number of shuffles, of whose indices the median is returned.
    """

    seed: int = 0
    permutations: int = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        require(self.permutations >= 1, "row_block_sum", "permutations", self.permutations, "at least 1")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight."""
        return (Weight(),)

    def __call__(self, observation: Observation) -> Estimate:
        """Estimate alpha of the layer's weight vectors."""
        weight = as_float64(observation[Weight()])
        vectors = weight.reshape(-1, *weight.shape[2:]) if weight.ndim > 2 else weight
        vectors = vectors.reshape(len(vectors), -1)
        largest = np.abs(vectors).max(initial=0.0)
        return block_sum_index(vectors / largest if largest > 0 else vectors, self.seed, self.permutations)
