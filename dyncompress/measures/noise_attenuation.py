"""How a trained network damps noise: the layer's cushion on its data, and what becomes of noise behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import as_float64, require, unusable
from dyncompress.types import Estimate, Need, NoiseGain, Observation

FEWEST, ADVISED = 2, 30


@dataclass(frozen=True)
class LayerCushion:
    """mu, the largest number with ||W X||_F >= mu ||W||_F ||X||_F for the inputs X of at least all but `share` of the examples.

    X holds an example's inputs of all positions as columns. Between 0 and 1, about 1 / sqrt(fan_in) if inputs and weights have
    nothing to do with each other; Gaussian noise relative to ||X|| shows at the layer's output as 1 / mu of its size there.
    Large: the layer's strong directions are those of its data, and it can be compressed with little effect.

    Source: Arora, Ge, Neyshabur, Zhang, ICML 2018, Definition of the layer cushion (all examples: `share` 0).
    Assumes: the observed examples stand for the data.
    Cost: one forward pass.
    Fails when: fewer than 30 examples (the smallest of few says little). Their bound has factors that are not computed: an
    indicator.

    Attributes:
        share: of the examples that may fall below, in [0, 1).
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
    """The root mean square over examples of the factor by which white noise at the layer's output, relative to that output,
    shows at the network's output, relative to it; below 1 the rest of the network damps noise.

    To first order: ||J||_F ||y|| / (sqrt(h) ||f||) with J the derivative of the outputs f by the layer's output y of h numbers.
    Arora's interlayer cushion to the network's end is 1 / (sqrt(h) * gain) for a network that is homogeneous of degree one.
    `stderr` is that of a mean over examples.

    Source: Arora, Ge, Neyshabur, Zhang, ICML 2018, noise sensitivity and interlayer cushion; ||J||_F by Hutchinson (1989).
    Assumes: noise small enough for the first order; independent examples.
    Cost: one forward and a few backward passes, for all layers together.
    Fails when: outputs are all zero; fewer than 30 examples. Scores that are all alike on an example read as a large gain.
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


def _finite(values: object) -> np.ndarray:
    """The finite ones: an example whose inputs or outputs are zero has no ratio."""
    array = as_float64(values).reshape(-1)
    return array[np.isfinite(array)]


def _estimate(value: float, stderr: float, n: int, notes: list[str]) -> Estimate:
    """With a note and invalid where examples are few."""
    if n < ADVISED:
        notes.append(f"only {n} examples; {ADVISED} are advised")
    return Estimate(value, stderr, n, valid=n >= ADVISED, notes=tuple(notes))
