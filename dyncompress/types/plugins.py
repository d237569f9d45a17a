# pyright: reportReturnType=false
# (the methods of Protocols have no bodies)
"""What may be plugged in: measures, allocators, rules, pruners, quantizers, bounds and risks."""

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
    """What theory reads off a layer: an indicator, never a certificate."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it reads."""

    def __call__(self, observation: Observation) -> Estimate:
        """The estimate, computed in float64 numpy."""


@runtime_checkable
class Allocator(Protocol):
    """Chooses one option for every unit."""

    def __call__(self, cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray) -> tuple[np.ndarray, float]:
        """Cost `[R, L, C]`, distortion `[L, C]` (inf where a unit lacks a choice), budget `[R]` -> choice `[L]`, gap."""


@runtime_checkable
class Rule(Protocol):
    """Shares zeros or bits out by what it reads off the layers: the published heuristics that an allocator has to beat."""

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures whose estimates it reads."""

    @property
    def solver(self) -> Allocator:
        """Who chooses from its table, in place of the distortions."""

    def __call__(self, profile: Profile) -> np.ndarray:
        """`[L, C]` a number for every option of every layer of `profile.table`, the bolder the larger; inf: none there."""


@runtime_checkable
class Pruner(Protocol):
    """Zeroes weights of one layer."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it reads."""

    def __call__(self, weight: Array, observation: Observation, choice: Choice) -> Array:
        """The new weight, the same shape, with exactly the zeros that `choice` asks for."""


@runtime_checkable
class Quantizer(Protocol):
    """Rounds the weights of one layer to integers. Zeros stay zeros."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it reads."""

    @property
    def entropy_coded(self) -> bool:
        """Whether it rounds by `choice.step`, for an entropy coder, in place of a width."""

    @property
    def sketch(self) -> Quantizer | None:
        """A quicker quantizer that tables of options are made with; None: the quantizer itself."""

    def on_grid(self, grid: Any) -> Quantizer:
        """The same quantizer with its codes and scales on a `quantization.Grid`: what the target's integers allow."""

    def __call__(self, weight: Array, observation: Observation, choice: Choice) -> Encoding:
        """The integer weight."""


@runtime_checkable
class Bound(Protocol):
    """A finite-sample bound on a mean."""

    def __call__(self, losses: np.ndarray, delta: float) -> Interval:
        """Bounds on the mean of the law of `losses` `[n]` at confidence 1 - delta."""


Risk = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (outputs [n, ...], labels) -> losses [n] in [0, 1]
