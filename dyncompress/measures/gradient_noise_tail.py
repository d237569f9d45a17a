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
    medians of the gradients over the record replace it; late in training it is small compared with the noise.
    Assumes: as `increment_tail`; minibatches drawn at random.
    Cost: O(T d) for each block length and shuffle.
    Instead of gradients, sums of the gradients between records may be given (`Trajectory.gradient_sums`): a stable law keeps its
    index, and others come nearer to 2. Where Adam forgets fast (beta2 = 0.95), its increments have an index of 1.8 to 2 for noise
    of any index from 1.3; the sums are right within 0.2 if records are 5 steps apart or more.
    Fails when: the mean gradient or its size changes along the record; batches come in a fixed order. Gaussian noise of changing
    variance gives less than 2. Whether gradient noise is alpha-stable at usual batch sizes is disputed.

    Attributes:
        seed: seed of the shuffles.
        permutations: number of shuffles, of whose indices the median is returned.
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
        """The index of the layer's gradients; rows of NaN, where no gradient was recorded, are left out."""
        gradients = as_float64(observation[Gradients()])
        known = gradients[np.isfinite(gradients).all(axis=1)]
        if not len(known):
            return unusable(0, "no gradient was recorded")
        return row_index(known, self.seed, self.permutations)
