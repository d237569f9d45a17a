"""ERK: layers are kept dense as their sides are small."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.rule import layers_of, zeros_only
from dyncompress.types import Allocator, Profile


@dataclass(frozen=True)
class ERK:
    """The density of a layer follows the sum of its sides over their product (Erdos-Renyi kernel):

        1 - S_l = min(1, t * (out + in / groups + sum of kernel sides) / weights)

    so that a layer keeps about as many weights as it has inputs and outputs, whatever was learnt. Layers that would pass 1
    stay dense and the others go further, as in the public code.

    Source: Mocanu et al., Nature Communications 2018; Evci et al., ICML 2020 (RigL, arXiv 1911.11134).
    Assumes: shapes alone say what a layer needs. Zeros alone: the random graph of which it is a law has weights or hasn't.
    """

    @property
    def measures(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def solver(self) -> Allocator:
        """A common level."""
        return CommonLevel()

    def __call__(self, profile: Profile) -> np.ndarray:
        """Minus the scale t at which a layer has each option's density, `[L, C]`."""
        sides = np.array([sum(layer.shape) / math.prod(layer.shape) for layer in layers_of(profile)])
        return (zeros_only(profile, "erk") - 1) / sides[:, None]
