"""How far a layer's weights still move late in training, and the width at which rounding moves them as far."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.measures.border import as_float64, unusable
from dyncompress.types import Estimate, Motion, Need, Observation, WeightMotion

FEWEST, ADVISED = 3, 30
CORRELATED = 0.5


@dataclass(frozen=True)
class FluctuationScale:
    """s, the root mean square over weights of the standard deviation of the late iterates around their drift.

    From the differences between consecutive records (the mean-square successive difference of von Neumann), so that a steady
    drift doesn't count: s_i^2 = Var(differences) (T - 1) / (2 T), unbiased for independent noise around a straight line.
    In the units of the weights. Feed it to `free_bits`.

    Source: von Neumann, Annals of Mathematical Statistics 12 (1941); the description-length reading: Hinton, van Camp (1993).
    Assumes: the run is at rest, noise of consecutive records independent. Correlated noise makes s too small (a note says so).
    Then s is sqrt(rate / (2 batch)) for every weight (Mandt, Hoffman, Blei, JMLR 2017): a scale for the network, no order of its
    layers. Before rest, s is larger where weights are more sensitive (`recording.increment_fisher`), the opposite of free room.
    Cost: O(N).
    Fails when: fewer than 3 records; the learning rate had already decayed to nothing. `stderr` holds for Gaussian noise
    whatever the correlation between weights (an upper bound, sqrt(3 T - 4) / (2 (T - 1)) of s).
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


def fluctuation_variance(motion: WeightMotion) -> np.ndarray:
    """s_i^2 of every weight, in the weight's layout, float64."""
    return as_float64(motion.increment_variance) * ((motion.count - 1) / (2 * motion.count))


def free_bits(value_range: float, fluctuation: float, tolerance: float = 1.0) -> int:
    """The width at which rounding moves weights no more than training noise does: ceil(log2(range / sqrt(12 c s^2))).

    A uniform grid of 2^b steps over the range errs by range^2 / (12 * 4^b) in the mean square; it may be c s^2. Use it for the
    scale of a whole network: see `FluctuationScale` for why layers can't be compared.

    Args:
        value_range: largest minus smallest weight, positive.
        fluctuation: s of `FluctuationScale`, same units, positive.
        tolerance: c.

    Returns:
        Bits, at least 1.

    Raises:
        InvalidRequest: an argument isn't positive.

    Example:
        >>> free_bits(value_range=2.0, fluctuation=0.01)
        6
    """
    if not (value_range > 0 and fluctuation > 0 and tolerance > 0):
        given = f"range {value_range}, fluctuation {fluctuation}, tolerance {tolerance}"
        raise InvalidRequest(f"free_bits: {given}; all must be positive.")
    return max(1, math.ceil(math.log2(value_range / math.sqrt(12 * tolerance * fluctuation**2))))
