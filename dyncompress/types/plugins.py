# pyright: reportReturnType=false
# (the methods of Protocols have no bodies)
"""The Protocols of what can be plugged in: measures, allocators, rules, pruners, quantizers, bounds and risks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dyncompress.types.certificate import Interval
from dyncompress.types.file import Encoding
from dyncompress.types.network import Array
from dyncompress.types.observation import Estimate, Need, Observation
from dyncompress.types.plan import Choice, Profile


@runtime_checkable
class Measure(Protocol):
    """A number that theory derives from what is observed of a layer: an indicator, never a certificate."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it reads of an observation."""

    def __call__(self, observation: Observation) -> Estimate:
        """The estimate for one layer, computed with numpy in float64."""


@runtime_checkable
class Allocator(Protocol):
    """Chooses one option for every unit."""

    def __call__(self, cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray) -> tuple[np.ndarray, float]:
        """Choose the options with the least total distortion within the budget.

        Args:
            cost: `[R, L, C]`, R costs of each of C options of L units.
            distortion: `[L, C]`; inf: the unit doesn't have this option.
            budget: `[R]`, the largest total of each cost.

        Returns:
            The indices `[L]` of the chosen options, and an upper limit for the difference from the least total
            distortion, as a share of the range of distortions.
        """


@runtime_checkable
class Rule(Protocol):
    """A published heuristic that distributes zeros or bits over the layers, as a baseline for allocators."""

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures whose estimates it reads."""

    @property
    def solver(self) -> Allocator:
        """The allocator that reads the rule's numbers in place of distortions."""

    def __call__(self, profile: Profile) -> np.ndarray:
        """A number for every option of every layer of `profile.table`, `[L, C]`, larger for bolder ones; inf: no such option."""


@runtime_checkable
class Pruner(Protocol):
    """Sets weights of one layer to zero."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it reads of an observation."""

    def __call__(self, weight: Array, observation: Observation, choice: Choice) -> Array:
        """The new weight, in the same shape, with exactly the share and pattern of zeros that `choice` asks for."""


@runtime_checkable
class Quantizer(Protocol):
    """Rounds the weights of one layer to integers; zeros stay zeros."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it reads of an observation."""

    @property
    def entropy_coded(self) -> bool:
        """Whether `choice.step` determines the rounding, for an entropy coder, and not `choice.weight_bits`."""

    @property
    def sketch(self) -> Quantizer | None:
        """A faster quantizer with which the errors of all options are computed; None: this quantizer is used."""

    def on_grid(self, grid: Any) -> Quantizer:
        """The same quantizer with codes and scales restricted to a `quantization.Grid`, which describes the target's integers."""

    def __call__(self, weight: Array, observation: Observation, choice: Choice) -> Encoding:
        """The weight as integers with their scales."""


@runtime_checkable
class Bound(Protocol):
    """A finite-sample bound on a mean."""

    def __call__(self, losses: np.ndarray, delta: float) -> Interval:
        """Bounds on the expected loss at confidence 1 - delta, from n independent losses `[n]`."""


Risk = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (outputs [n, ...], labels) -> losses [n] in [0, 1]
