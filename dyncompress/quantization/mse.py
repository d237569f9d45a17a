"""Round to nearest on the grid of least squared error: some large weights are clipped so that the others gain resolution."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dyncompress.linalg.deferred import torch
from dyncompress.quantization.grid import Grid, blocked, checked, encoding, spread
from dyncompress.quantization.nearest import covering_scale, rounded
from dyncompress.types import Choice, Encoding, Need, Observation, Weight

if TYPE_CHECKING:
    from torch import Tensor

# Ratios of the covering scale that are tried: 1 down to 0.1 in steps of 6 %, closer than the error's own scale of change;
# least squares then moves the best one to the bottom of its valley.
_RATIOS = tuple(0.1 ** (i / 38) for i in range(39))
_LEAST_SQUARES_STEPS = 3
# Weights looked at together: bounds the memory to a few copies of 16 million numbers.
_WEIGHTS_AT_ONCE = 1 << 24


def clipped_scale(blocks: Tensor, limits: tuple[int, int], grid: Grid, importance: Tensor | None = None) -> Tensor:
    """Scale of least (weighted) squared rounding error of each block.

    argmin_s sum_i h_i (w_i - s q_i(s))^2 over a geometric grid below the covering scale, then least squares for s with the
    codes held, s = <w, q>_h / <q, q>_h, kept where it lowers the error. Each step leaves the error no larger than that of
    the covering scale.

    Cost: about 45 passes over the weights.

    Args:
        blocks: `[r, b, width]`.
        limits: lowest and highest code.
        grid: which scales the target can hold.
        importance: `[width]` or `[r, b, width]`, non-negative; None: all equal.

    Returns:
        `[r, b]`, float32.
    """
    rows = max(1, _WEIGHTS_AT_ONCE // (blocks.shape[1] * blocks.shape[2]))
    parts = []
    for start in range(0, blocks.shape[0], rows):
        part = blocks[start : start + rows]
        h = importance if importance is None or importance.ndim == 1 else importance[start : start + rows]
        parts.append(_search(part, limits, grid, h))
    return torch.cat(parts)


def _search(blocks: Tensor, limits: tuple[int, int], grid: Grid, importance: Tensor | None) -> Tensor:
    """`clipped_scale` of as many rows as fit into memory."""
    best = grid.allowed(covering_scale(blocks, limits))
    cover = best
    # In units of the covering scale no square over- or underflows.
    x = blocks / cover[..., None]
    h = torch.ones_like(x[..., :1]) if importance is None else importance

    def error(scale: Tensor) -> tuple[Tensor, Tensor]:
        ratio = (scale / cover)[..., None]
        codes = rounded(x, ratio, limits)
        return ((codes * ratio - x).square_() * h).sum(-1), codes

    least, codes = error(best)
    for ratio in _RATIOS[1:]:
        scale = grid.allowed(cover * ratio)
        loss, tried = error(scale)
        better = loss < least
        best, least = torch.where(better, scale, best), torch.where(better, loss, least)
        codes = torch.where(better[..., None], tried, codes)
    for _ in range(_LEAST_SQUARES_STEPS):
        norm = (codes.square() * h).sum(-1)
        ratio = (codes * x * h).sum(-1) / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        scale = grid.allowed(torch.where(ratio > 0, cover * ratio, best))
        loss, tried = error(scale)
        better = loss < least
        best, least = torch.where(better, scale, best), torch.where(better, loss, least)
        codes = torch.where(better[..., None], tried, codes)
    return best


@dataclass(frozen=True)
class Mse:
    """Scales of least squared weight error, then round to nearest.

    Clipping shrinks the outputs' variance, so below 4 bits it needs the outputs' moments matched afterwards.

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

    def on_grid(self, grid: Grid) -> Mse:
        """The same quantizer on another grid."""
        return replace(self, grid=grid)

    def __call__(self, weight: Tensor, observation: Observation, choice: Choice) -> Encoding:
        """Round a weight `[out, in / groups, *kernel]` to `choice.weight_bits`.

        Raises:
            InvalidRequest: the weight isn't finite, or the width or granularity doesn't exist.
        """
        matrix = checked(weight)
        limits = self.grid.limits(choice.weight_bits)
        scale = clipped_scale(blocked(matrix, choice.granularity), limits, self.grid)
        codes = rounded(matrix, spread(scale, (matrix.shape[0], matrix.shape[1]), choice.granularity), limits)
        return encoding(codes, scale, weight, choice)
