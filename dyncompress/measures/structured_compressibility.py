"""The relative error of keeping only the largest rows, or the largest singular values, of a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import as_float64, require
from dyncompress.measures.compressibility import relative_pruning_error
from dyncompress.measures.esd_alpha import pooled_eigenvalues
from dyncompress.types import Estimate, Need, Observation, Spectrum, Weight
from dyncompress.types.arrays import Float64


@dataclass(frozen=True)
class RowCompressibility:
    """The smallest eps for which the rows' l1 norms are (q, k, eps)-compressible: ||v - v_k||_q / ||v||_q.

    v holds the l1 norm of every output channel's weights, v_k the k = ceil(keep * out) largest of them. A small eps
    means that a few neurons dominate the layer. It is computed exactly, so its standard error is zero.

    Source: Barsbey, Ribeiro, Simsekli, Birdal, arXiv 2507.17725 (neuron compressibility).
    Cost: O(N).
    Fails when: all weights are zero. It measures the change of the weights, not of the outputs.

    Attributes:
        keep: share of rows that remain, in (0, 1].
        power: q.
    """

    keep: float = 0.1
    power: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields."""
        _check("row_compressibility", self.keep, self.power)

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight."""
        return (Weight(),)

    def __call__(self, observation: Observation) -> Estimate:
        """eps at `keep`."""
        return relative_pruning_error(row_norms(observation), self.keep, self.power)


@dataclass(frozen=True)
class SpectralCompressibility:
    """The smallest eps for which the singular values are (q, k, eps)-compressible: ||s - s_k||_q / ||s||_q.

    Of the matrix `(out, in / groups * kernel)`. With q = 2 it is the relative Frobenius error of the best rank-k factorisation.
    It is computed exactly, so its standard error is zero.

    Source: Barsbey, Ribeiro, Simsekli, Birdal, arXiv 2507.17725 (spectral compressibility); Eckart, Young (1936) for q = 2.
    Cost: one symmetric eigenvalue problem.
    Fails when: all weights are zero.

    Attributes:
        keep: share of singular values that remain, in (0, 1].
        power: q.
    """

    keep: float = 0.1
    power: float = 2.0

    def __post_init__(self) -> None:
        """Check the fields."""
        _check("spectral_compressibility", self.keep, self.power)

    @property
    def needs(self) -> tuple[Need, ...]:
        """The spectrum of the flattened weight."""
        return (Spectrum("flat"),)

    def __call__(self, observation: Observation) -> Estimate:
        """eps at `keep`, a share of min(out, fan_in) singular values, zeros included."""
        return relative_pruning_error(singular_values(observation), self.keep, self.power)


def row_norms(observation: Observation) -> Float64[np.ndarray, " out"]:
    """l1 norms of the output channels relative to the largest weight, `[out]` float64."""
    weight = as_float64(observation[Weight()])
    rows = np.abs(weight.reshape(weight.shape[0], -1))
    largest = rows.max(initial=0.0)
    return (rows / largest if largest > 0 else rows).sum(axis=1)


def singular_values(observation: Observation) -> Float64[np.ndarray, " rank"]:
    """Singular values of the flattened weight relative to the largest, `[min(out, fan_in)]` float64, ascending."""
    values, lost = pooled_eigenvalues(observation, "flat")
    relative = np.sqrt(values / values[-1]) if values.size else values
    return np.concatenate([np.zeros(lost), relative])


def _check(measure: str, keep: float, power: float) -> None:
    """Check the share and the power."""
    require(0 < keep <= 1, measure, "keep", keep, "above 0 and at most 1")
    require(0 < power < math.inf, measure, "power", power, "above 0")
