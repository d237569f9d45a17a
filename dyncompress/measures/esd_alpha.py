"""Tail exponents of the empirical spectral density (ESD) of a layer's weight matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import NO_TAIL, as_float64, require, unusable
from dyncompress.measures.power_law import ADVISED, FEWEST, as_estimate, fit_power_law
from dyncompress.types import Estimate, Need, Observation, Spectrum
from dyncompress.types.arrays import Float, Float64

RANK_FLOOR = 1e-12  # share of the largest eigenvalue, below which eigenvalues of a float64 Gram matrix are rounding errors
BINS = 100
PEAK_REACH = 1.5


@dataclass(frozen=True)
class EsdMid:
    """The density exponent of the upper half of the eigenvalues (Hill's estimator at the median).

    With eigenvalues ascending from index 0 and i = floor(n / 2)

        alpha = 1 + (n - i) / sum_{j >= i} log(lambda_j / lambda_i),    standard error (alpha - 1) / sqrt(n - i).

    Source: PL_Alpha_Hill of AlphaPruning (Lu et al., NeurIPS 2024), `xmin_mid`; eigenvalues of all kernel positions pooled.
    Departure: eigenvalues below 1e-12 of the largest are set to that floor and counted, because log(0) is infinite.
    Assumes: a regularly varying upper half; the standard error treats eigenvalues as independent, which they aren't.
    Cost: one symmetric eigenvalue problem for each kernel position.
    Fails when: layers of different shapes are compared (for pure noise it varies from 2.1 to 4.5 with the aspect ratio; use
    `farms`); there are fewer than 50 eigenvalues; more than half of them are zero.

    Attributes:
        view: `slices` (kernel positions) or `flat`, of the Spectrum.
    """

    view: str = "slices"

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_view("esd_mid", self.view)

    @property
    def needs(self) -> tuple[Need, ...]:
        """The spectrum."""
        return (Spectrum(self.view),)

    def __call__(self, observation: Observation) -> Estimate:
        """Estimate alpha of the layer's spectrum."""
        return upper_half_exponent(*pooled_eigenvalues(observation, self.view))


@dataclass(frozen=True)
class EsdPowerLaw:
    """The density exponent of the eigenvalues above the threshold with the smallest Kolmogorov-Smirnov distance.

    This is `power_law` applied to the eigenvalues, the alpha of Martin and Mahoney, who report about 2 to 6 for trained layers.

    Source: Martin, Mahoney, JMLR 22 (2021), and their package weightwatcher. Departure: eigenvalues below 1e-12 of
    the largest are dropped instead of those below 1e-5, so the result is scale-invariant.
    Assumes: eigenvalues above the threshold behave as independent draws of a power law.
    Cost: one symmetric eigenvalue problem for each kernel position, and the scan of `power_law`.
    Fails when: there is no tail (noise gives 5 to 40, depending on the shape; above 6 is invalid); there are fewer than 50
    eigenvalues.

    Attributes:
        view: `slices` (kernel positions) or `flat`, of the Spectrum.
    """

    view: str = "slices"

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_view("esd_power_law", self.view)

    @property
    def needs(self) -> tuple[Need, ...]:
        """The spectrum."""
        return (Spectrum(self.view),)

    def __call__(self, observation: Observation) -> Estimate:
        """Estimate alpha of the layer's spectrum; `fit` is the distance."""
        values, lost = pooled_eigenvalues(observation, self.view)
        return as_estimate(fit_power_law(values), values.size, "eigenvalues", _rank_note(lost))


@dataclass(frozen=True)
class EsdPeak:
    """Like `esd_power_law` with the threshold near the peak of the spectrum: in [lowest * peak, 1.5 * peak].

    The peak is the left edge of the bin with the most eigenvalues, of 100 bins of log10(lambda).

    Source: `xmin_peak` of weightwatcher, AlphaPruning and FARMS. There the lower end is log10(0.95 * peak) compared with the
    eigenvalues themselves, so for peaks below about 10 their rule has no lower end in effect. Here the lower end is 0.95 * peak,
    as in their text; `lowest = 0` gives the rule that their code has in effect.
    Assumes, cost, fails when: as `esd_power_law`.

    Attributes:
        view: `slices` (kernel positions) or `flat`, of the Spectrum.
        lowest: lower end of the threshold's range, as a share of the peak.
    """

    view: str = "slices"
    lowest: float = 0.95

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_view("esd_peak", self.view)
        require(0 <= self.lowest <= 1, "esd_peak", "lowest", self.lowest, "between 0 and 1")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The spectrum."""
        return (Spectrum(self.view),)

    def __call__(self, observation: Observation) -> Estimate:
        """Estimate alpha of the layer's spectrum; `fit` is the distance."""
        values, lost = pooled_eigenvalues(observation, self.view)
        if values.size < FEWEST:
            return unusable(values.size, f"{values.size} eigenvalues; a power law needs {FEWEST}")
        counts, edges = np.histogram(np.log10(values / values[-1]), bins=BINS)
        peak = float(values[-1] * 10 ** edges[np.argmax(counts)])
        fit = fit_power_law(values, self.lowest * peak, PEAK_REACH * peak)
        return as_estimate(fit, values.size, "eigenvalues", _rank_note(lost))


def pooled_eigenvalues(observation: Observation, view: str) -> tuple[Float64[np.ndarray, " n"], int]:
    """The eigenvalues of a Spectrum that aren't zero up to rounding, and the number of those that are.

    Args:
        observation: one that holds `Spectrum(view)`.
        view: `slices` (one matrix for each kernel position, pooled) or `flat` (the matrix `(out, in / groups * kernel)`).

    Returns:
        The eigenvalues of W W^T above the rounding floor, ascending, and how many lie below it. The zeros that W W^T has because
        W is taller than wide count in neither.
    """
    shape = observation.layer.shape
    columns = observation.layer.fan_in if view == "flat" else (shape[1] if len(shape) > 1 else 1)
    full = min(observation.layer.out, columns)
    pooled = np.concatenate([as_float64(values)[-full:] for values in observation[Spectrum(view)]])
    largest = pooled.max(initial=0.0)
    values = np.sort(pooled[pooled > RANK_FLOOR * largest]) if largest > 0 else pooled[:0]
    return values, pooled.size - values.size


def upper_half_exponent(values: Float[np.ndarray, " n"], lost: int = 0) -> Estimate:
    """Hill's estimator at the median of positive `values` `[n]`, ascending, preceded by `lost` values at the rounding floor.

    Example: exact quantiles of a Pareto law with density exponent 3.
        >>> import numpy as np
        >>> round(upper_half_exponent((np.arange(2000, 0, -1) / 2001) ** -0.5).value, 1)
        3.0
    """
    n = values.size + lost
    if values.size < FEWEST:
        return unusable(n, f"{values.size} non-zero eigenvalues; the estimator needs {FEWEST}")
    first = n // 2 - lost
    logs = np.log(values / values[-1])
    start = logs[first] if first >= 0 else math.log(RANK_FLOOR)
    k = n - n // 2
    total = float((logs[max(first, 0) :] - start).sum()) + 0.0
    if total <= 0:
        return unusable(n, "the upper half of the eigenvalues are equal")
    alpha = 1 + k / total
    notes = list(_rank_note(lost))
    if first < 0:
        notes.append("more than half of the eigenvalues are zero")
    if alpha > NO_TAIL:
        notes.append(f"no power-law tail (exponent above {NO_TAIL:g})")
    if n < ADVISED:
        notes.append(f"only {n} eigenvalues; {ADVISED} are advised")
    valid = first >= 0 and alpha <= NO_TAIL and n >= ADVISED
    return Estimate(alpha, (alpha - 1) / math.sqrt(k), k, valid=valid, notes=tuple(notes))


def _rank_note(lost: int) -> list[str]:
    """A note about zero eigenvalues, where there are any."""
    return [f"{lost} eigenvalues are zero: the weight doesn't have full rank"] if lost else []


def _check_view(measure: str, view: str) -> None:
    """Check that the view is one that these measures support."""
    require(view in ("slices", "flat"), measure, "view", view, "'slices' or 'flat'")
