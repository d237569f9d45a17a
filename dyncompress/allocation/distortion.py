"""Errors of a choice -> the harm it should do: pure functions, one for each source of sensitivity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dyncompress.types import Estimate, Layer

KINDS = ("pruning", "quantization")  # of choices; each has sensitivities of its own
SHAPES = ("depth", "log_fan_in")  # what is known of a layer without measuring
CLIP = 2.0  # z-scores beyond this are outliers of small layers, not knowledge


def fisher(output_error: np.ndarray, fisher: np.ndarray) -> float:
    """Half of sum_c fisher_c * E[e_c^2]: the KL divergence, in nats, that an error of the layer's output should cost.

    Source: second-order expansion of the KL divergence with the Gauss-Newton matrix of the output, its diagonal only.
    Assumes: small errors, uncorrelated between channels.

    Args:
        output_error: `[out]`, E[e_c^2] over examples and positions.
        fisher: `[out]`, see `types.OutputFisher`.

    Example:
        >>> fisher(np.array([0.5, 1.0]), np.array([4.0, 2.0]))
        2.0
    """
    return 0.5 * float(np.dot(np.asarray(output_error, np.float64), np.asarray(fisher, np.float64)))


def theory(relative_error: float, log_sensitivity: float) -> float:
    """The relative error times exp(log sensitivity): harm in relative units, comparable between layers of one model.

    Example:
        >>> theory(0.25, 0.0)
        0.25
    """
    return float(relative_error * np.exp(log_sensitivity))


def log_sensitivity(estimates: Mapping[str, Mapping[str, Estimate]], coefficients: Mapping[str, float]) -> dict[str, float]:
    """sum over measures of coefficient * z, z the layer's estimate standardised over the layers, clipped to [-2, 2].

    A layer whose estimate is missing, invalid or not finite counts as the mean (z = 0). The coefficients are data of the recipe:
    learnt on other networks, written beside their source, and to be learnt again where probes are at hand.

    Source: the idea of a prior on sensitivity with reported coefficients; the field has no agreed formula. An indicator,
    never a bound.

    Args:
        estimates: measure -> layer -> estimate.
        coefficients: measure -> weight of its z-score; measures without one don't count.

    Returns:
        Layer -> log sensitivity, 0 on average over the layers (but for clipping).
    """
    layers = list(dict.fromkeys(layer for found in estimates.values() for layer in found))
    out = dict.fromkeys(layers, 0.0)
    for measure, coefficient in coefficients.items():
        for layer, score in _scores(estimates.get(measure, {})).items():
            out[layer] += coefficient * score
    return out


def shapes(layers: Sequence[Layer]) -> dict[str, dict[str, Estimate]]:
    """What a layer's place and shape say, as estimates beside those of measures: `depth`, its place in the forward pass, and
    `log_fan_in`."""
    exact = {"stderr": 0.0, "n": 1}
    return {
        "depth": {layer.name: Estimate(float(place), **exact) for place, layer in enumerate(layers)},
        "log_fan_in": {layer.name: Estimate(math.log(max(layer.fan_in, 1)), **exact) for layer in layers},
    }


def z_scores(estimates: Mapping[str, Mapping[str, Estimate]], layers: Sequence[str], measures: Sequence[str]) -> np.ndarray:
    """Each measure standardised over the layers and clipped to [-2, 2], `[L, d]`; 0 where an estimate is missing or invalid."""
    table = np.zeros((len(layers), len(measures)))
    for column, measure in enumerate(measures):
        found = _scores({layer: e for layer, e in estimates.get(measure, {}).items() if layer in layers})
        table[:, column] = [found.get(layer, 0.0) for layer in layers]
    return table


def _scores(found: Mapping[str, Estimate]) -> dict[str, float]:
    usable = {layer: e.value for layer, e in found.items() if e.valid and np.isfinite(e.value)}
    if len(usable) < 2:
        return {}
    values = np.array(list(usable.values()), dtype=np.float64)
    width = values.std()
    if not width > 1e-12 * max(1.0, float(np.abs(values).max())):
        return {}
    scores = np.clip((values - values.mean()) / width, -CLIP, CLIP)
    return dict(zip(usable, scores.tolist(), strict=True))
