"""How a trained network damps noise: the layer's cushion on its data, and the gain of noise from the layer to the outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import as_float64, require, unusable
from dyncompress.types import Array, Estimate, Need, NoiseGain, Observation
from dyncompress.types.arrays import Float64, Shaped

FEWEST, ADVISED = 2, 30


@dataclass(frozen=True)
class LayerCushion:
    """mu, the largest number with ||W X||_F >= mu ||W||_F ||X||_F for the inputs X of at least all but `share` of the examples.

    X holds an example's inputs of all positions as columns. mu lies between 0 and 1 and is about 1 / sqrt(fan_in) if inputs and
    weights are independent. Gaussian noise at the inputs, relative to ||X||, is 1 / mu times as large at the output, relative to
    ||W X||. A large mu means that the layer's strong directions are those of its data, so that compression changes little.

    Source: Arora, Ge, Neyshabur, Zhang, ICML 2018, Definition of the layer cushion (all examples: `share` 0).
    Assumes: the observed examples represent the data.
    Cost: one forward pass.
    Fails when: there are fewer than 30 examples, because the smallest of a few varies much. The bound of the paper has factors
    that aren't computed; this is an indicator.

    Attributes:
        share: share of the examples that may have a smaller cushion, in [0, 1).
    """

    share: float = 0.0

    def __post_init__(self) -> None:
        """Check the fields."""
        require(0 <= self.share < 1, "layer_cushion", "share", self.share, "at least 0 and below 1")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The noise gain."""
        return (NoiseGain(),)

    def __call__(self, observation: Observation) -> Estimate:
        """The cushion over the observed examples."""
        cushions = np.sort(_finite(observation[NoiseGain()][0]))
        if cushions.size < FEWEST:
            return unusable(cushions.size, f"{cushions.size} examples that aren't all zero; {FEWEST} are needed")
        value = float(cushions[int(self.share * cushions.size)])
        return _estimate(value, math.nan, cushions.size, ["no standard error for the smallest of a sample"])


@dataclass(frozen=True)
class NoiseAttenuation:
    """The gain of white noise from the layer's output to the network's output, each relative to the output itself.

    It is the root mean square over examples; below 1, the rest of the network damps noise. To first order an example's gain is
    ||J||_F ||y|| / (sqrt(h) ||f||) with J the derivative of the outputs f with respect to the layer's output y of h numbers.
    Arora's interlayer cushion to the network's end is 1 / (sqrt(h) * gain) for a network that is homogeneous of degree one.
    `stderr` is that of a mean over examples.

    Source: Arora, Ge, Neyshabur, Zhang, ICML 2018, noise sensitivity and interlayer cushion; ||J||_F by Hutchinson (1989).
    Assumes: noise small enough for the first order; independent examples.
    Cost: one forward and a few backward passes, for all layers together.
    Fails when: outputs are all zero; there are fewer than 30 examples. An example whose scores are all nearly equal has a large
    gain.
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        """The noise gain."""
        return (NoiseGain(),)

    def __call__(self, observation: Observation) -> Estimate:
        """The gain over the observed examples."""
        squares = _finite(observation[NoiseGain()][1]) ** 2
        if squares.size < FEWEST:
            return unusable(squares.size, f"{squares.size} examples with outputs that aren't zero; {FEWEST} are needed")
        value = math.sqrt(float(squares.mean()))
        stderr = float(squares.std(ddof=1)) / math.sqrt(squares.size) / (2 * value) if value > 0 else 0.0
        return _estimate(value, stderr, squares.size, [])


def _finite(values: Shaped[Array, "*shape"]) -> Float64[np.ndarray, " finite"]:
    """The finite values, flat: an example whose inputs or outputs are zero has no ratio."""
    array = as_float64(values).reshape(-1)
    return array[np.isfinite(array)]


def _estimate(value: float, stderr: float, n: int, notes: list[str]) -> Estimate:
    """The Estimate; where there are too few examples, it is invalid and has a note."""
    if n < ADVISED:
        notes.append(f"only {n} examples; {ADVISED} are advised")
    return Estimate(value, stderr, n, valid=n >= ADVISED, notes=tuple(notes))
