"""The tail index of a layer's minibatch gradient noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import as_float64, require, unusable
from dyncompress.measures.increment_tail import row_index
from dyncompress.types import Estimate, Gradients, Need, Observation


@dataclass(frozen=True)
class GradientNoiseTail:
    """The alpha-stable index of recorded minibatch gradients around their median, as vectors; the estimator of `increment_tail`.

    Source: Simsekli, Sagun, Gurbuzbalaban, ICML 2019. Departure: they subtract the full gradient at every iterate; here the
    gradients' medians over the record stand for it, which late in training is small beside the noise.
    Assumes: as `increment_tail`; minibatches drawn at random.
    Cost: O(T d) for each block length and shuffle.
    Fails when: the mean gradient moves along the record, or its size does; batches come in a fixed order. Gaussian noise of
    changing variance reads below 2; that gradient noise is stable at usual batch sizes is disputed.

    Attributes:
        seed: of the shuffles.
        permutations: shuffles over which the median is taken.
    """

    seed: int = 0
    permutations: int = 5

    def __post_init__(self) -> None:
        """Check the fields."""
        require(self.permutations >= 1, "gradient_noise_tail", "permutations", self.permutations, "at least 1")

    @property
    def needs(self) -> tuple[Need, ...]:
        """Minibatch gradients along the trajectory."""
        return (Gradients(),)

    def __call__(self, observation: Observation) -> Estimate:
        """The index of the layer's gradients; rows of nan, where none was recorded, are left out."""
        gradients = as_float64(observation[Gradients()])
        known = gradients[np.isfinite(gradients).all(axis=1)]
        if not len(known):
            return unusable(0, "no gradient was recorded")
        return row_index(known, self.seed, self.permutations)
