"""Two measures of the Fisher information of a layer's weights: its trace, and the Fisher-Rao norm of the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import as_float64, flat_weights, unusable
from dyncompress.types import Estimate, Need, Observation, Weight, WeightFisher
from dyncompress.types.arrays import Float64

NO_STDERR = "no standard error: the number of gradients that were averaged isn't known"


@dataclass(frozen=True)
class FisherTrace:
    """tr F / N, the mean Fisher information of a weight: the variance of the gradient of one example, averaged over weights.

    To second order it predicts the effect of rounding, as `hessian_trace` does: errors of variance v add v / 2 * tr F to the
    divergence. It is read off a recorded run or a checkpoint with the optimizer's state, and needs no data.

    Source: gradient noise as curvature: Jastrzebski et al., arXiv 1711.04623 (2018); Thomas et al., AISTATS 2020. Its trace early
    in training as a predictor of the gap: Jastrzebski et al., ICML 2021, who compute it with labels drawn from the model.
    Departure: the labels are those of training, and the mean is over the last steps of training.
    Assumes: training ended near a minimum at which the model is right about its uncertainty: there the covariance of the gradient
    is the Hessian.
    Cost: O(N).
    Fails when: the training labels were memorised: then the noise of the gradient vanishes with the training loss, whatever the
    curvature is. Without batch size the unit is unknown, and runs can't be compared. The value changes when layers are rescaled,
    unless a normalisation layer undoes it, which is folded. There is no standard error: the observation doesn't say how many
    gradients were averaged.

    Example:
        >>> from dyncompress.types import Layer
        >>> seen = Observation(Layer("fc", "linear", (1, 2), macs=2), {WeightFisher(): np.array([[1.0, 3.0]])})
        >>> FisherTrace()(seen).value
        2.0
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        """The Fisher information of every weight."""
        return (WeightFisher(),)

    def __call__(self, observation: Observation) -> Estimate:
        """The mean Fisher information, in nats for an error of 1; n is the number of weights."""
        fisher = _flat_fisher(observation)
        if not np.isfinite(fisher).all() or not fisher.any():
            return unusable(fisher.size, _why(fisher))
        return Estimate(float(fisher.mean()), math.nan, fisher.size, notes=(NO_STDERR,))


@dataclass(frozen=True)
class FisherRaoNorm:
    """The sum over weights of f_i w_i^2: the square of the Fisher-Rao norm sqrt(w^T F w), with the diagonal of F alone.

    It doesn't change when the weights into a unit of a ReLU network are multiplied by a number and those out of it divided by it,
    or when a normalisation layer undoes a factor: f_i is divided by the square of what w_i is multiplied by. Half of it is the
    distortion, in nats, that is predicted for setting all weights to zero.

    Source: Liang, Poggio, Rakhlin, Stokes, AISTATS 2019; their bound, for linear networks, grows with the norm.
    Departure: they take the whole matrix; here only its diagonal is known. Biases and the weights of normalisation layers aren't
    counted.
    Assumes: as `fisher_trace`.
    Cost: O(N).
    Fails when: as `fisher_trace`, but for the rescaling. From an optimizer's state the invariance is exact for factors of whole
    layers, and for those of single units up to the share of the mean gradient, which is estimated for a layer at once. Where the
    unit is unknown, the Fisher information is scaled so that this sum over all layers is the same number for every network.

    Example:
        >>> from dyncompress.types import Layer
        >>> values = {Weight(): np.array([[2.0, -1.0]]), WeightFisher(): np.array([[1.0, 3.0]])}
        >>> FisherRaoNorm()(Observation(Layer("fc", "linear", (1, 2), macs=2), values)).value
        7.0
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight and the Fisher information of its entries."""
        return (Weight(), WeightFisher())

    def __call__(self, observation: Observation) -> Estimate:
        """The square of the norm, in nats; n is the number of weights."""
        weight, fisher = flat_weights(observation), _flat_fisher(observation)
        if not np.isfinite(fisher).all() or not fisher.any():
            return unusable(fisher.size, _why(fisher))
        value = float((np.sqrt(fisher) * weight) @ (np.sqrt(fisher) * weight))
        if value == 0:
            return Estimate(0.0, math.nan, fisher.size, valid=False, notes=("all weights are zero", NO_STDERR))
        return Estimate(value, math.nan, fisher.size, notes=(NO_STDERR,))


def _flat_fisher(observation: Observation) -> Float64[np.ndarray, " n"]:
    """The Fisher information of all weights of the layer, `[n]` float64."""
    return as_float64(observation[WeightFisher()]).reshape(-1)


def _why(fisher: Float64[np.ndarray, " n"]) -> str:
    """Why Fisher information gives no number."""
    return "no gradient was ever different from zero" if np.isfinite(fisher).all() else "the Fisher information isn't finite"
