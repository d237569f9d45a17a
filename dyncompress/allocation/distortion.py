"""The predicted distortion of an option from its error: one function for each source of sensitivity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dyncompress.types import Estimate, Layer
from dyncompress.types.arrays import Float64, Real

KINDS = ("pruning", "quantization")  # kinds of choices; each has its own sensitivities
SHAPES = ("depth", "log_fan_in")  # scores of a layer that need no measure
CLIP = 2.0  # larger z-scores are outliers of small layers and carry no information


def fisher(output_error: Real[np.ndarray, " out"], fisher: Real[np.ndarray, " out"]) -> float:
    """Half of sum_c fisher_c * E[e_c^2]: the KL divergence, in nats, that an error of the layer's output is predicted to cause.

    Source: second-order expansion of the KL divergence with the Gauss-Newton matrix of the output, its diagonal only.
    Assumes: small errors, uncorrelated between channels.

    Args:
        output_error: `[out]`, E[e_c^2] of the output error e, over examples and positions.
        fisher: `[out]`, the Fisher information of each output channel, see `types.OutputFisher`.

    Example:
        >>> fisher(np.array([0.5, 1.0]), np.array([4.0, 2.0]))
        2.0
    """
    return 0.5 * float(np.dot(np.asarray(output_error, np.float64), np.asarray(fisher, np.float64)))


def theory(relative_error: float, log_sensitivity: float) -> float:
    """The relative error times exp(log sensitivity): a distortion in relative units, comparable between layers of one model.

    Example:
        >>> theory(0.25, 0.0)
        0.25
    """
    return float(relative_error * np.exp(log_sensitivity))


def log_sensitivity(estimates: Mapping[str, Mapping[str, Estimate]], coefficients: Mapping[str, float]) -> dict[str, float]:
    """The log sensitivity of each layer: the sum over measures of coefficient * z-score.

    z is the layer's estimate standardised over the layers and clipped to [-2, 2]. A layer whose estimate is missing, invalid or
    not finite counts as the mean (z = 0). The coefficients come from the recipe: they were learnt on other networks, and should
    be learnt again where sensitivities were probed.

    Source: ours; there is no agreed formula for a prior on sensitivity. It is an indicator, not a bound.

    Args:
        estimates: measure -> layer -> estimate.
        coefficients: measure -> weight of its z-score; measures without one don't count.

    Returns:
        Layer -> log sensitivity; the mean over the layers is 0, apart from clipping.
    """
    layers = list(dict.fromkeys(layer for by_layer in estimates.values() for layer in by_layer))
    out = dict.fromkeys(layers, 0.0)
    for measure, coefficient in coefficients.items():
        for layer, score in _scores(estimates.get(measure, {})).items():
            out[layer] += coefficient * score
    return out


def shapes(layers: Sequence[Layer]) -> dict[str, dict[str, Estimate]]:
    """Scores that follow from a layer's place and shape, as estimates by name and layer.

    `depth` is the layer's index in the forward pass, `log_fan_in` the logarithm of its number of inputs.
    """
    exact = {"stderr": 0.0, "n": 1}
    return {
        "depth": {layer.name: Estimate(float(place), **exact) for place, layer in enumerate(layers)},
        "log_fan_in": {layer.name: Estimate(math.log(max(layer.fan_in, 1)), **exact) for layer in layers},
    }


def z_scores(
    estimates: Mapping[str, Mapping[str, Estimate]], layers: Sequence[str], measures: Sequence[str]
) -> Float64[np.ndarray, "L d"]:
    """Each measure standardised over the layers and clipped to [-2, 2], `[L, d]`; 0 where an estimate is missing or invalid."""
    table = np.zeros((len(layers), len(measures)))
    for column, measure in enumerate(measures):
        scores = _scores({layer: e for layer, e in estimates.get(measure, {}).items() if layer in layers})
        table[:, column] = [scores.get(layer, 0.0) for layer in layers]
    return table


def _scores(by_layer: Mapping[str, Estimate]) -> dict[str, float]:
    """Clipped z-scores of the valid estimates; none where they are fewer than two, or all equal."""
    usable = {layer: e.value for layer, e in by_layer.items() if e.valid and np.isfinite(e.value)}
    if len(usable) < 2:
        return {}
    values = np.array(list(usable.values()), dtype=np.float64)
    width = values.std()
    if not width > 1e-12 * max(1.0, float(np.abs(values).max())):
        return {}
    scores = np.clip((values - values.mean()) / width, -CLIP, CLIP)
    return dict(zip(usable, scores.tolist(), strict=True))
