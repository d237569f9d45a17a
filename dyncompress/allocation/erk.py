"""ERK: the smaller a layer's sides, the denser it stays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.rule import layers_of, zeros_only
from dyncompress.types import Allocator, Profile
from dyncompress.types.arrays import Float64


@dataclass(frozen=True)
class ERK:
    """The density of a layer follows the sum of its sides over their product (Erdos-Renyi kernel):

        1 - S_l = min(1, t * (out + in / groups + sum of kernel sides) / weights)

    so that the number of weights that a layer keeps is proportional to its number of inputs and outputs, whatever the weights
    are. Layers whose density would exceed 1 stay dense and the others become sparser, as in the public code.

    Source: Mocanu et al., Nature Communications 2018; Evci et al., ICML 2020 (RigL, arXiv 1911.11134).
    Assumes: the shapes of layers determine the density that they need. It applies to zeros only.
    """

    @property
    def measures(self) -> tuple[str, ...]:
        """No measure is needed."""
        return ()

    @property
    def solver(self) -> Allocator:
        """The solver: a common level."""
        return CommonLevel()

    def __call__(self, profile: Profile) -> Float64[np.ndarray, "L C"]:
        """Minus the scale t at which a layer has each option's density, `[L, C]`; inf where it has no such option."""
        sides = np.array([sum(layer.shape) / math.prod(layer.shape) for layer in layers_of(profile)])
        return (zeros_only(profile, "erk") - 1) / sides[:, None]
