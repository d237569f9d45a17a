"""The share of weights of a layer that are smaller than their fluctuation in training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import as_float64, require, unusable
from dyncompress.measures.fluctuation import ADVISED, FEWEST, fluctuation_variance
from dyncompress.types import Estimate, Motion, Need, Observation


@dataclass(frozen=True)
class SignalToNoise:
    """The share of weights whose squared signal-to-noise ratio (mean_i / s_i)^2 is at most `threshold`.

    s_i is the weight's fluctuation around its drift (see `fluctuation_scale`). For a learnt posterior, a large share
    means that much of the layer is noise and can be pruned. Iterates of plain training aren't a posterior: s_i is large where
    weights are sensitive, or the same everywhere, and pruning by this ratio loses far more accuracy than pruning by magnitude.
    The measure is for reports only.

    Source: Graves, NeurIPS 2011; Blundell et al., ICML 2015, both for learnt posteriors.
    Assumes: as `fluctuation_scale`.
    Cost: O(N).
    Fails when: there are fewer than 3 records. `stderr` is binomial and treats the weights as independent, and adds the bias of
    s_i in few records, whose relative size is at most 1 / (2 (T - 2)): 3 records of a share of 0.38 give 0.28.

    Attributes:
        threshold: largest squared ratio that counts, above 0.
    """

    threshold: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields."""
        require(self.threshold > 0, "signal_to_noise", "threshold", self.threshold, "above 0")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The motion of the weights."""
        return (Motion(),)

    def __call__(self, observation: Observation) -> Estimate:
        """The share of weights below the threshold; a weight that stays at zero counts as below."""
        motion = observation[Motion()]
        if motion.count < FEWEST:
            return unusable(motion.count, f"{motion.count} recorded iterates; the signal-to-noise ratio needs {FEWEST}")
        mean = as_float64(motion.mean)
        if mean.size == 0:
            return unusable(0, "no weights")
        share = float(np.mean(mean * mean <= self.threshold * fluctuation_variance(motion)))
        notes = ["standard error treats the weights as independent"]
        if motion.count < ADVISED:
            notes.append(f"only {motion.count} recorded iterates; {ADVISED} are advised")
        stderr = math.hypot(math.sqrt(share * (1 - share) / mean.size), share / (2 * (motion.count - 2)))
        return Estimate(share, stderr, mean.size, valid=motion.count >= ADVISED, notes=tuple(notes))
