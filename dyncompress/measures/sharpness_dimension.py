"""The sharpness dimension: the number of directions that a step of gradient descent doesn't contract, from batch Hessians."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import as_float64, require, unusable
from dyncompress.types import Estimate, HessianSpectrum, Need, Observation
from dyncompress.types.arrays import Float

SMALLEST = 1e-300
ADVISED = 2


@dataclass(frozen=True)
class SharpnessDimension:
    """The Kaplan-Yorke dimension of the random map w -> w - rate * gradient of a batch's loss, for one layer's weights.

    A batch's step has the derivative I - rate * H, whose singular values are |1 - rate * h|. With lambda_1 >= lambda_2 >= ...
    the mean over batches of the logarithms of the k-th largest, and j the largest number with lambda_1 + ... + lambda_j >= 0,

        dim = j + (lambda_1 + ... + lambda_j) / |lambda_(j+1)|.

    It is 0 if lambda_1 < 0, and the number of weights if j is that number.

    Source: Tuci, Korkmaz, Simsekli, Birdal, arXiv 2604.19740. Departures: only the layer's own block of the Hessian; only the
    final weights (their lambda is the supremum over the attractor). Their bound is asymptotic and contains constants that can't
    be computed; this is an indicator, not a bound.
    Assumes: weights near the end of training, whose learning rate is `rate`.
    Cost: nodes * batches Hessian-vector products.
    Fails when: many directions are flat (h = 0). Each has log 1 = 0 and counts as one dimension, so the dimension of a wide layer
    is close to its number of flat directions. Logarithms within `flat` of 0 are set to 0. `stderr` is the jackknife's over
    batches.

    Attributes:
        rate: learning rate, above 0.
        flat: logarithms whose absolute value is at most this count as zero.
        nodes: number of Lanczos steps, i.e. of nodes of the Hessian's spectrum, for each batch.
        batches: number of batches.
    """

    rate: float = 0.1
    flat: float = 1e-5
    nodes: int = 20
    batches: int = 4

    def __post_init__(self) -> None:
        """Check the fields."""
        require(0 < self.rate < math.inf, "sharpness_dimension", "rate", self.rate, "above 0")
        require(0 <= self.flat < math.inf, "sharpness_dimension", "flat", self.flat, "at least 0")
        require(self.nodes >= 2, "sharpness_dimension", "nodes", self.nodes, "at least 2")
        require(self.batches >= 1, "sharpness_dimension", "batches", self.batches, "at least 1")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The Hessian's spectrum."""
        return (HessianSpectrum(self.nodes, self.batches),)

    def __call__(self, observation: Observation) -> Estimate:
        """The dimension; n is the number of weights."""
        values, counts = (as_float64(part) for part in observation[self.needs[0]])
        if values.size == 0 or counts.sum() <= 0:
            return unusable(0, "no batch gave a Hessian")
        logs = np.log(np.abs(1 - self.rate * values).clip(min=SMALLEST))
        logs[np.abs(logs) <= self.flat] = 0.0
        dimension = kaplan_yorke(logs, counts)
        size, batches = round(float(counts[0].sum())), len(values)
        notes = [f"{dimension / size:.3f} of {size} weights"] if size else []
        if batches < ADVISED:
            return Estimate(dimension, math.nan, size, valid=False, notes=(*notes, "no standard error from one batch"))
        without_one = np.array([kaplan_yorke(np.delete(logs, b, 0), np.delete(counts, b, 0)) for b in range(batches)])
        stderr = math.sqrt((batches - 1) * float(without_one.var()))
        return Estimate(dimension, stderr, size, notes=tuple(notes))


def kaplan_yorke(exponents: Float[np.ndarray, "batches n"], counts: Float[np.ndarray, "batches n"]) -> float:
    """The largest t at which the mean over batches of (sum of the t largest exponents) is at least 0.

    The sums are interpolated linearly between integers, which gives the fraction of the Kaplan-Yorke formula and allows exponents
    that stand for a fraction of a direction.

    Args:
        exponents: `[batches, n]`, in any order.
        counts: `[batches, n]`, how many directions each exponent stands for; the total is the same in every batch.

    Example: 0.5 + 0.1 - 0.4 = 0.2, and a quarter of the fourth exponent, -0.8, brings the sum to 0.
        >>> import numpy as np
        >>> round(kaplan_yorke(np.array([[-0.8, 0.5, 0.1, -0.4]]), np.ones((1, 4))), 6)
        3.25
    """
    order = np.argsort(-exponents, axis=1, kind="stable")
    rates = np.take_along_axis(exponents, order, 1)
    widths = np.take_along_axis(counts, order, 1)
    ends = np.concatenate([np.zeros((len(rates), 1)), np.cumsum(widths, axis=1)], axis=1)
    sums = np.concatenate([np.zeros((len(rates), 1)), np.cumsum(rates * widths, axis=1)], axis=1)
    places = np.unique(ends)
    mean = np.mean([np.interp(places, end, total) for end, total in zip(ends, sums, strict=True)], axis=0)
    last = np.flatnonzero(mean >= -1e-12 * max(1.0, float(np.abs(sums).max())))[-1]
    if last == len(places) - 1:
        return float(places[-1])
    drop = (mean[last] - mean[last + 1]) / (places[last + 1] - places[last])
    return float(places[last] + max(mean[last], 0.0) / drop)
