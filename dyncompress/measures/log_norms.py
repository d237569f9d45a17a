"""Logarithmic norms of a layer's spectrum, weighted by its tail exponent."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dyncompress.measures.border import require
from dyncompress.measures.esd_alpha import pooled_eigenvalues
from dyncompress.measures.power_law import as_estimate, fit_power_law
from dyncompress.types import Estimate, Need, Observation, Spectrum
from dyncompress.types.arrays import Float64


@dataclass(frozen=True)
class AlphaWeighted:
    """alpha * log10(lambda_max): the tail exponent of the eigenvalues of W W^T, weighted by the largest one ("alpha hat").

    alpha is that of `esd_power_law`. It depends on the scale: multiplying the weights by c adds 2 alpha log10|c|.

    Source: Martin, Peng, Mahoney, Nature Communications 12 (2021). Departure: kernel positions aren't rescaled before pooling.
    Assumes: as `esd_power_law`; `stderr` is alpha's times |log10 lambda_max|; it treats the largest eigenvalue as known.
    Cost: one symmetric eigenvalue problem for each kernel position, and the scan of `power_law`.
    Fails when: as `esd_power_law`; layers of networks with different normalisation are compared (the scale is then arbitrary).

    Attributes:
        view: `slices` (kernel positions) or `flat`, of the Spectrum.
    """

    view: str = "slices"

    def __post_init__(self) -> None:
        """Check the fields."""
        require(self.view in ("slices", "flat"), "alpha_weighted", "view", self.view, "'slices' or 'flat'")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The spectrum."""
        return (Spectrum(self.view),)

    def __call__(self, observation: Observation) -> Estimate:
        """alpha * log10(lambda_max); n, fit and validity are those of alpha."""
        alpha, values = _exponent(observation, self.view)
        if math.isnan(alpha.value):
            return alpha
        top = math.log10(values[-1])
        return replace(alpha, value=alpha.value * top, stderr=alpha.stderr * abs(top))


@dataclass(frozen=True)
class LogAlphaNorm:
    """log10 sum_i lambda_i^alpha: the logarithm of a Schatten norm, to the power at which the spectrum's own tail decays.

    Like `alpha_weighted`, which it approaches where one eigenvalue dominates, it depends on the scale of the weights.

    Source: Martin, Peng, Mahoney, Nature Communications 12 (2021).
    Assumes: as `esd_power_law`; `stderr` is alpha's times the derivative, |sum lambda^alpha log10 lambda| / sum lambda^alpha.
    Cost, fails when: as `alpha_weighted`.

    Attributes:
        view: `slices` (kernel positions) or `flat`, of the Spectrum.
    """

    view: str = "slices"

    def __post_init__(self) -> None:
        """Check the fields."""
        require(self.view in ("slices", "flat"), "log_alpha_norm", "view", self.view, "'slices' or 'flat'")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The spectrum."""
        return (Spectrum(self.view),)

    def __call__(self, observation: Observation) -> Estimate:
        """The logarithm of the norm; n, fit and validity are those of alpha."""
        alpha, values = _exponent(observation, self.view)
        if math.isnan(alpha.value):
            return alpha
        logs = np.log10(values)
        powers = 10 ** (alpha.value * (logs - logs[-1]))  # relative to the largest: lambda^alpha itself may overflow
        value = alpha.value * logs[-1] + math.log10(powers.sum())
        slope = float(powers @ logs / powers.sum())
        return replace(alpha, value=float(value), stderr=alpha.stderr * abs(slope))


def _exponent(observation: Observation, view: str) -> tuple[Estimate, Float64[np.ndarray, " n"]]:
    """alpha of the pooled eigenvalues as `esd_power_law` estimates it, and the eigenvalues, ascending."""
    values, lost = pooled_eigenvalues(observation, view)
    notes = [f"{lost} eigenvalues are zero: the weight doesn't have full rank"] if lost else []
    return as_estimate(fit_power_law(values), values.size, "eigenvalues", notes), values
