"""The effective width of a layer's inputs: the number of directions in which its data vary."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import as_float64, require, unusable
from dyncompress.types import Estimate, InputMoment, Need, Observation
from dyncompress.types.arrays import Float


@dataclass(frozen=True)
class EffectiveWidth:
    """N(lambda) = tr[S (S + lambda)^-1], the degrees of freedom of the layer's inputs, S their second moment.

    Between 0 and the fan-in K: an eigenvalue far above lambda counts 1, one far below counts 0. lambda is `ridge` times the
    mean eigenvalue, so the width doesn't depend on the inputs' scale. The widths of a convolution's groups are added.

    Source: Suzuki, Abe, Nishimura, ICLR 2020 (arXiv 1909.11274), and Suzuki et al., IJCAI 2020, who choose widths by
    it. Departure: their lambda is absolute and depends on the sample size.
    Assumes: the observed inputs are typical. The constants of their bounds aren't computed, so this is an indicator of how narrow
    or low-rank the layer may become, not a bound.
    Cost: a symmetric eigenvalue problem of size K for each group, 4/3 K^3 flops.
    Fails when: there are fewer examples than inputs (then the moment doesn't have full rank and the width is too small); all
    inputs are zero.

    Attributes:
        ridge: lambda as a share of the mean eigenvalue, above 0.
    """

    ridge: float = 0.01

    def __post_init__(self) -> None:
        """Check the fields."""
        require(0 < self.ridge < math.inf, "effective_width", "ridge", self.ridge, "above 0")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The second moment of the inputs."""
        return (InputMoment(),)

    def __call__(self, observation: Observation) -> Estimate:
        """The effective width; n is the number of inputs."""
        values = np.linalg.eigvalsh(as_float64(observation[InputMoment()])).clip(min=0)
        mean = values.mean() if values.size else 0.0
        if mean <= 0:
            return unusable(values.size, "all inputs are zero")
        width = degrees_of_freedom(values / mean, self.ridge)
        notes = (f"{width / values.size:.3f} of {values.size} inputs", "no standard error: the variance of the data isn't known")
        return Estimate(width, math.nan, values.size, notes=notes)


def degrees_of_freedom(eigenvalues: Float[np.ndarray, "*n"], ridge: float) -> float:
    """The sum of s / (s + ridge) over `eigenvalues` s >= 0, of any shape; `ridge` > 0 is in their units.

    Example: k eigenvalues 1 and the rest 0 give k / (1 + ridge).
        >>> import numpy as np
        >>> degrees_of_freedom(np.array([1.0, 1.0, 1.0, 0.0]), 0.5)
        2.0
    """
    return float((eigenvalues / (eigenvalues + ridge)).sum())
