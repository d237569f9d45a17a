"""Round to nearest on the smallest grid that holds every weight."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dyncompress.linalg.deferred import torch
from dyncompress.quantization.grid import SMALLEST_SCALE, Grid, blocked, checked, encoding, spread
from dyncompress.types import Choice, Encoding, Need, Observation, Weight

if TYPE_CHECKING:
    from torch import Tensor


def covering_scale(blocks: Tensor, limits: tuple[int, int]) -> Tensor:
    """Smallest scale at which no weight of a block is clipped: max(max w / high, min w / low).

    Args:
        blocks: `[r, b, width]`.
        limits: lowest and highest code.

    Returns:
        `[r, b]`, positive; 1 for a block of zeros.
    """
    low, high = limits
    scale = torch.maximum(blocks.amax(-1) / high, blocks.amin(-1) / low)
    return torch.where(scale > 0, scale, torch.ones_like(scale)).clamp_min(SMALLEST_SCALE)


def rounded(matrix: Tensor, scale: Tensor, limits: tuple[int, int]) -> Tensor:
    """Nearest codes, `clamp(round(w / scale), low, high)`, float."""
    return (matrix / scale).round_().clamp_(*limits)


@dataclass(frozen=True)
class Nearest:
    """Min-max scales and round to nearest.

    Every error is at most half a scale (with power-of-two scales only where none was rounded down).

    Attributes:
        grid: what the target's integers allow.
    """

    grid: Grid = field(default_factory=Grid)

    @property
    def needs(self) -> tuple[Need, ...]:
        """Only the weight."""
        return (Weight(),)

    @property
    def entropy_coded(self) -> bool:
        """No: it rounds to a width."""
        return False

    @property
    def sketch(self) -> None:
        """None: tables of options are made with the quantizer itself."""
        return None

    def on_grid(self, grid: Grid) -> Nearest:
        """The same quantizer on another grid."""
        return replace(self, grid=grid)

    def __call__(self, weight: Tensor, observation: Observation, choice: Choice) -> Encoding:
        """Round a weight `[out, in / groups, *kernel]` to `choice.weight_bits`.

        Raises:
            InvalidRequest: the weight isn't finite, or the width or granularity doesn't exist.
        """
        matrix = checked(weight)
        limits = self.grid.limits(choice.weight_bits)
        scale = self.grid.allowed(covering_scale(blocked(matrix, choice.granularity), limits))
        codes = rounded(matrix, spread(scale, (matrix.shape[0], matrix.shape[1]), choice.granularity), limits)
        return encoding(codes, scale, weight, choice)
