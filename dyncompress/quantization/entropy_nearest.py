"""Rounding for an entropy coder without data: one step size a channel, set by what a recorded run tells of its weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dyncompress.errors import InvalidRequest
from dyncompress.quantization.grid import SMALLEST_SCALE, Grid, checked, encoding
from dyncompress.types import Choice, Encoding, Need, Observation, Weight, WeightFisher

# As in `entropy`: gains beyond this aren't rounding errors any more, and what hardly matters still counts this share of the mean.
_GAINS = (0.5, 2.0)
_LEAST = 1e-3


@dataclass(frozen=True)
class EntropyNearest:
    """Nearest codes on a uniform grid of unlimited levels, its step by the equal-slope rule.

    A channel's step is `choice.step` / sqrt(F), F = F_c^rows mean(F)^(1 - rows) with F_c the mean Fisher information of its
    weights: an error spread evenly over one step then costs step^2 / 24 nats a weight, in every layer alike. Where no run was
    recorded, an error counts relative to the layer's weights.

    Codes lie in [-127, 127]; the step is widened where a channel needs more. Least squares, each weight by its own Fisher
    information, sets the channel's gain at last.

    **Source**: equal slopes, Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers".

    Cost: a few passes over the weights.

    Attributes:
        rows: 0: one step a layer; 1: every channel by its own Fisher information.
        grid: what the target's integers allow.
    """

    rows: float = 1.0
    grid: Grid = field(default_factory=Grid)

    def __post_init__(self) -> None:
        """Check the fields."""
        if not 0 <= self.rows <= 1:
            told = f"rows is {self.rows}; 0 (one step a layer) to 1 (each channel its own)."
            raise InvalidRequest(f"quantize.entropy_nearest: {told}")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight, and what an error of each costs."""
        return (Weight(), WeightFisher())

    @torch.no_grad()
    def __call__(self, weight: Tensor, observation: Observation, choice: Choice) -> Encoding:
        """Round a weight `[out, in / groups, *kernel]` with `choice.step`.

        Raises:
            InvalidRequest: the weight isn't finite, or the step isn't positive.
        """
        if not choice.step > 0:
            raise InvalidRequest(f"layer '{observation.layer.name}': step is {choice.step}; entropy coding needs one above 0.")
        matrix = checked(weight)
        fisher = self._fisher(matrix, observation)
        rows = fisher.mean(1) ** self.rows * fisher.mean() ** (1 - self.rows)
        limits = self.grid.limits(8)
        step = (choice.step * rows.rsqrt()).float().clamp_min(SMALLEST_SCALE)
        step = self.grid.allowed(torch.maximum(step, matrix.abs().amax(1) / limits[1]))
        codes = (matrix / step[:, None]).round().clamp(*limits)
        gain = _gain(matrix.double(), codes.double() * step[:, None], fisher)
        return encoding(codes, self.grid.allowed(step * gain.to(step)), weight, choice)

    def _fisher(self, matrix: Tensor, observation: Observation) -> Tensor:
        """`[out, K]` float64, positive."""
        if WeightFisher() in observation:
            found = observation[WeightFisher()].to(matrix.device).double().reshape(matrix.shape)
            if bool(found.any()):
                return found + _LEAST * found.mean()
        energy = matrix.double().square().sum().clamp_min(SMALLEST_SCALE)
        return (2 / energy).expand(matrix.shape)


def _gain(rows: Tensor, rounded: Tensor, fisher: Tensor) -> Tensor:
    """The factor of each rounded row that brings it closest to the row."""
    cross, norm = (fisher * rows * rounded).sum(1), (fisher * rounded.square()).sum(1)
    good = (cross > 0) & (norm > 0)
    return torch.where(good, cross / torch.where(good, norm, 1.0), 1.0).clamp(*_GAINS)
