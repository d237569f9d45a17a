"""The predictions of theory for each measure (whether the generalization gap grows with it), and sums over layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dyncompress.measures import MEASURES
from dyncompress.measures.border import unusable
from dyncompress.types import Estimate, Measure
from dyncompress.types.representation import short_repr

Shares = Callable[[np.ndarray], np.ndarray]  # numbers of weights `[L]` -> what each layer's value is multiplied by, `[L]`


def averaged(sizes: np.ndarray) -> np.ndarray:
    """The mean over layers, however large they are: how tail exponents and log norms of networks are reported (Martin et al.)."""
    return np.full(len(sizes), 1 / len(sizes))


def added(sizes: np.ndarray) -> np.ndarray:
    """The sum over layers: numbers of directions, and squares of norms, of layers whose curvature is taken block by block."""
    return np.ones(len(sizes))


def traced(sizes: np.ndarray) -> np.ndarray:
    """The sum over weights, of a mean over weights: the trace of a whole matrix is that of its blocks."""
    return sizes


@dataclass(frozen=True)
class Prediction:
    """The prediction for a measure.

    Attributes:
        sign: 1: the gap grows with it; -1: it shrinks; 0: not known.
        source: who predicts it; or that it was learned.
        shares: how the layers' values add up to the network's.
    """

    sign: int
    source: str
    shares: Shares = averaged

    __repr__ = short_repr


_DIMENSION = "a bound grows with the dimension of the trajectory"
_TAIL = "heavier tails, that is smaller exponents, go with better networks: Martin, Peng, Mahoney 2021"
_COMPRESSIBLE = "what loses less when it is compressed has the smaller bound: Arora et al. 2018, Barsbey et al. 2021"

# Signs are those of the sources, fixed before anything was measured here (docs/theory/model_selection.md has what was).
PREDICTIONS: dict[str, Prediction] = {
    "ph_dimension": Prediction(1, f"{_DIMENSION}: Birdal et al. 2021"),
    "data_ph_dimension": Prediction(1, f"{_DIMENSION}: Dupuis et al. 2023"),
    "two_nn": Prediction(1, f"{_DIMENSION}, of which it is another estimate: Birdal et al. 2021"),
    "lifetime_sum": Prediction(1, "Andreeva et al. 2024"),
    "magnitude": Prediction(1, "Andreeva et al. 2024"),
    "positive_magnitude": Prediction(1, "Andreeva et al. 2024"),
    "increment_tail": Prediction(1, f"{_DIMENSION}, which the tail index bounds: Simsekli et al. 2020"),
    "gradient_noise_tail": Prediction(1, f"{_DIMENSION}, which the tail index bounds: Simsekli et al. 2020"),
    "sharpness_dimension": Prediction(1, "Tuci et al. 2026", added),
    "hessian_trace": Prediction(1, "flat minima: Hochreiter, Schmidhuber 1997; Keskar et al. 2017", traced),
    "fisher_trace": Prediction(
        1,
        "flat minima: Keskar et al. 2017; gradient noise is curvature: Jastrzebski et al. 2018; its trace: theirs of 2021",
        traced,
    ),
    "fisher_rao_norm": Prediction(1, "Liang, Poggio, Rakhlin, Stokes 2019", added),
    "esd_mid": Prediction(1, _TAIL),
    "esd_peak": Prediction(1, _TAIL),
    "esd_power_law": Prediction(1, _TAIL),
    "farms": Prediction(1, f"{_TAIL}; Hu et al. 2025"),
    "alpha_weighted": Prediction(1, "Martin, Peng, Mahoney 2021"),
    "log_alpha_norm": Prediction(1, "Martin, Peng, Mahoney 2021"),
    "soft_rank": Prediction(1, "Martin, Mahoney 2021"),
    "stable_rank": Prediction(1, "at equal spectral norms: Neyshabur, Bhojanapalli, Srebro 2018"),
    "hill": Prediction(1, f"{_COMPRESSIBLE}; heavy tails make it so"),
    "power_law": Prediction(1, f"{_COMPRESSIBLE}; heavy tails make it so"),
    "block_sum": Prediction(1, f"{_COMPRESSIBLE}; heavy tails make it so"),
    "row_block_sum": Prediction(1, f"{_COMPRESSIBLE}; heavy tails make it so"),
    "compressibility": Prediction(1, _COMPRESSIBLE),
    "row_compressibility": Prediction(1, _COMPRESSIBLE),
    "spectral_compressibility": Prediction(1, _COMPRESSIBLE),
    "effective_width": Prediction(1, "Suzuki, Abe, Nishimura 2020"),
    "noise_attenuation": Prediction(1, "the factor is one over a cushion: Arora et al. 2018"),
    "layer_cushion": Prediction(-1, "Arora et al. 2018"),
}
UNKNOWN = Prediction(0, "no theory says whether the gap grows with it")
KINDS = {kind: name for name, kind in MEASURES.items()}


def prediction(measure: Measure) -> Prediction:
    """The prediction for a measure, whatever its fields.

    Example:
        >>> from dyncompress.measures import LayerCushion, Kurtosis
        >>> prediction(LayerCushion()).sign, prediction(Kurtosis()).sign
        (-1, 0)
    """
    return PREDICTIONS.get(KINDS.get(type(measure), ""), UNKNOWN)


def of_network(by_layer: Mapping[str, Estimate], sizes: Mapping[str, int], shares: Shares) -> Estimate:
    """One estimate of a network from those of its layers: a sum, with the standard error of independent layers.

    Layers without a number are left out; where a layer's estimate isn't valid the network's isn't.

    Args:
        by_layer: layer -> Estimate.
        sizes: layer -> number of weights.
        shares: of the layers.

    Example:
        >>> of_network({"a": Estimate(1.0, 0.3, 9), "b": Estimate(3.0, 0.4, 9)}, {"a": 5, "b": 5}, averaged).value
        2.0
    """
    known = {name: estimate for name, estimate in by_layer.items() if math.isfinite(estimate.value)}
    if not known:
        return unusable(0, "no layer gave a number")
    each: Sequence[Estimate] = list(known.values())
    weights = shares(np.array([sizes[name] for name in known], dtype=np.float64))
    value = float(sum(weight * estimate.value for weight, estimate in zip(weights, each, strict=True)))
    stderr = math.sqrt(sum((weight * estimate.stderr) ** 2 for weight, estimate in zip(weights, each, strict=True)))
    missing, doubtful = len(by_layer) - len(known), sum(not estimate.valid for estimate in each)
    notes = [f"{missing} of {len(by_layer)} layers gave no number"] if missing else []
    notes += [f"{doubtful} of {len(by_layer)} layers are outside the estimator's conditions"] if doubtful else []
    return Estimate(value, stderr, len(known), valid=not notes, notes=tuple(notes))
