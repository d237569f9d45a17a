"""The PQ index: how sparse a layer's weights are, by the ratio of two norms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import flat_weights, require, unusable
from dyncompress.types import Estimate, Need, Observation, Weight


@dataclass(frozen=True)
class PqIndex:
    """1 - N^(1/q - 1/p) ||w||_p / ||w||_q with p < q: 0 if all |w| are equal, 1 - N^(1/q - 1/p) if only one weight isn't zero.

    It doesn't depend on the scale of w, and doesn't change when w is repeated. Independent weights tend to 1 - E[|X|^p]^(1/p) /
    E[|X|^q]^(1/q): with p = 1, q = 2 it is 1 - sqrt(2 / pi) = 0.202 for Gaussian and 1 - 1 / sqrt 2 = 0.293 for Laplace weights.

    Source: Diao, Wang, Zhan, Yang, Ding, Tarokh, ICLR 2023.
    Cost: O(N).
    Fails when: all weights are zero. It is computed exactly, so its standard error is zero.

    Attributes:
        low: p.
        high: q, above p.
    """

    low: float = 1.0
    high: float = 2.0

    def __post_init__(self) -> None:
        """Check the fields."""
        require(0 < self.low < math.inf, "pq_index", "low", self.low, "above 0")
        require(self.low < self.high < math.inf, "pq_index", "high", self.high, f"above low = {self.low:g}")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight."""
        return (Weight(),)

    def __call__(self, observation: Observation) -> Estimate:
        """The index of all weights, zeros included."""
        sizes = np.abs(flat_weights(observation))
        largest = sizes.max(initial=0.0)
        if largest == 0:
            return unusable(sizes.size, "all weights are zero")
        relative = sizes / largest
        means = [float((relative**power).mean()) ** (1 / power) for power in (self.low, self.high)]
        return Estimate(max(0.0, 1 - means[0] / means[1]), 0.0, sizes.size)
