"""How far a layer's weights still move late in training, and the bit width whose rounding errors are as large."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.measures.border import as_float64, unusable
from dyncompress.types import Estimate, Motion, Need, Observation, WeightMotion
from dyncompress.types.arrays import Float64

FEWEST, ADVISED = 3, 30
CORRELATED = 0.5


@dataclass(frozen=True)
class FluctuationScale:
    """s, the root mean square over weights of the standard deviation of the late iterates around their drift.

    It is computed from the differences between consecutive records (the mean-square successive difference of von Neumann), so
    that a steady drift doesn't count: s_i^2 = Var(differences) (T - 1) / (2 T), unbiased for independent noise around a straight
    line. It is in the units of the weights and is an argument of `free_bits`.

    Source: von Neumann, Annals of Mathematical Statistics 12 (1941); the description-length reading: Hinton, van Camp (1993).
    Assumes: training is stationary and the noise of consecutive records is independent. Correlated noise makes s too small (a
    note says so). In a stationary run s is sqrt(rate / (2 batch)) for every weight (Mandt, Hoffman, Blei, JMLR 2017): a scale for
    the network, which doesn't order its layers. Before that, s is larger where weights are more sensitive
    (`recording.increment_fisher`), so a large s doesn't mean that a layer can be rounded coarsely. With Adam it is the other way
    round: s^2 is rate / (2 sqrt(batch F)) at rest, with F the Fisher information, and before that the same for all weights.
    Cost: O(N).
    Fails when: there are fewer than 3 records; the learning rate has decayed to almost zero. `stderr` is an upper bound for
    Gaussian noise with any correlation between weights, sqrt(3 T - 4) / (2 (T - 1)) of s.
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        """The motion of the weights."""
        return (Motion(),)

    def __call__(self, observation: Observation) -> Estimate:
        """The fluctuation scale of the layer."""
        motion = observation[Motion()]
        if motion.count < FEWEST:
            return unusable(motion.count, f"{motion.count} recorded iterates; the fluctuation scale needs {FEWEST}")
        scale = math.sqrt(float(fluctuation_variance(motion).mean()))
        notes = []
        around_mean = float(as_float64(motion.variance).mean())
        if scale**2 < CORRELATED * around_mean:
            notes.append("records drift or are correlated: the scale around the drift is smaller than around the mean")
        if motion.count < ADVISED:
            notes.append(f"only {motion.count} recorded iterates; {ADVISED} are advised")
        if scale == 0:
            notes.append("the weights didn't move")
        stderr = scale * math.sqrt(3 * motion.count - 4) / (2 * (motion.count - 1))
        return Estimate(scale, stderr, motion.count, valid=scale > 0 and motion.count >= ADVISED, notes=tuple(notes))


def fluctuation_variance(motion: WeightMotion) -> Float64[np.ndarray, "*weight"]:
    """s_i^2 of every weight, float64, in the shape of the weight.

    Args:
        motion: moments of the recorded iterates and of their increments, of one layer.

    Example: two records whose difference has variance 4.
        >>> from dyncompress.types import WeightMotion
        >>> fluctuation_variance(WeightMotion(np.zeros(1), np.zeros(1), np.full(1, 4.0), count=2)).tolist()
        [1.0]
    """
    return as_float64(motion.increment_variance) * ((motion.count - 1) / (2 * motion.count))


def free_bits(value_range: float, fluctuation: float, tolerance: float = 1.0) -> int:
    """The bit width at which rounding errors are no larger than training noise: ceil(log2(range / sqrt(12 c s^2))).

    A uniform grid of 2^b steps over the range has a mean square error of range^2 / (12 * 4^b), which is allowed to be c s^2. Use
    it for a whole network; `FluctuationScale` explains why layers can't be compared.

    Args:
        value_range: largest minus smallest weight, positive.
        fluctuation: s of `FluctuationScale`, same units, positive.
        tolerance: c, positive.

    Returns:
        Bits, at least 1.

    Raises:
        InvalidRequest: an argument isn't positive.

    Example:
        >>> free_bits(value_range=2.0, fluctuation=0.01)
        6
    """
    if not (value_range > 0 and fluctuation > 0 and tolerance > 0):
        arguments = f"range {value_range}, fluctuation {fluctuation}, tolerance {tolerance}"
        raise InvalidRequest(f"free_bits: {arguments}; all must be positive.")
    return max(1, math.ceil(math.log2(value_range / math.sqrt(12 * tolerance * fluctuation**2))))
