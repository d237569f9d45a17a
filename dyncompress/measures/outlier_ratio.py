"""The share of weights that are outliers once they are multiplied by the size of their inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import as_float64, require, unusable
from dyncompress.types import Estimate, InputMoment, Need, Observation, Weight


@dataclass(frozen=True)
class OutlierRatio:
    """D = share of the weights with |w_ij| * sqrt(E[x_j^2]) > times * (the mean of this product over the layer).

    Source: the layerwise outlier distribution of OWL, Yin et al., ICML 2024 (arXiv 2310.05175), times 5 (they try 3 to 10).
    Assumes: the observed inputs represent all inputs. The standard error is that of a share of independent weights.
    Cost: O(N), beside the inputs' moments.
    Fails when: all products are zero. All layers without outliers have the value 0, so the measure doesn't order them.

    Attributes:
        times: a weight is an outlier above so many times the mean.
    """

    times: float = 5.0

    def __post_init__(self) -> None:
        """Check the field."""
        require(self.times > 0, "outlier_ratio", "times", self.times, "above 0")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight, and the second moment of its inputs."""
        return (Weight(), InputMoment())

    def __call__(self, observation: Observation) -> Estimate:
        """The share; n is the number of weights."""
        weight, moment = np.abs(as_float64(observation[Weight()])), as_float64(observation[InputMoment()])
        groups, fan_in = moment.shape[0], moment.shape[-1]
        largest = weight.max(initial=0.0)
        size = np.sqrt(np.diagonal(moment, axis1=1, axis2=2).clip(min=0.0))
        score = (weight / (largest or 1.0)).reshape(groups, -1, fan_in) * size[:, None, :]
        mean = score.mean() if score.size else 0.0
        if not mean > 0:
            return unusable(weight.size, "all weights are zero, or all inputs that they meet")
        share = float((score > self.times * mean).mean())
        return Estimate(share, math.sqrt(share * (1 - share) / weight.size), weight.size)
