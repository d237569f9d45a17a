"""Round to nearest with the scale of least squared error, which may clip a few large weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dyncompress.linalg.deferred import Tensor, torch
from dyncompress.quantization.grid import Grid, encoding, expand_scale, float_matrix, scale_blocks
from dyncompress.quantization.nearest import covering_scale, nearest_codes
from dyncompress.types import Choice, Encoding, Need, Observation, Weight
from dyncompress.types.arrays import Float, Float32

# Ratios of the covering scale that are tried: 1 down to 0.1 in steps of 6 %, fine enough to miss no minimum of the error;
# least squares then moves the best one to its local minimum.
_RATIOS = tuple(0.1 ** (i / 38) for i in range(39))
_LEAST_SQUARES_STEPS = 3
# Weights processed together: bounds the memory to a few copies of 16 million numbers.
_WEIGHTS_AT_ONCE = 1 << 24


def clipped_scale(
    blocks: Float[Tensor, "r b width"], limits: tuple[int, int], grid: Grid, importance: Float[Tensor, ...] | None = None
) -> Float32[Tensor, "r b"]:
    """The scale of least (weighted) squared rounding error of each block.

    It minimises sum_i h_i (w_i - s q_i(s))^2 over a geometric sequence of scales s below the covering scale, then by least
    squares for s with the codes held, s = <w, q>_h / <q, q>_h, where that lowers the error. The error is never larger than
    that of the covering scale.

    **Cost**: about 45 passes over the weights.

    Args:
        blocks: weights, those of one scale on the last axis, `[r, b, width]`; see `scale_blocks`.
        limits: lowest and highest code.
        grid: the scales that the target allows.
        importance: h, `[width]` or `[r, b, width]`, non-negative; None: 1 everywhere.

    Returns:
        `[r, b]`, float32.

    Example:
        With codes -1, 0, 1 the one large weight is clipped, since three small ones count more.

        >>> clipped_scale(torch.tensor([[[0.9, 0.3, -0.3, 0.3, 0.3, -0.3]]]), (-1, 1), Grid())
        tensor([[0.4000]])
    """
    rows = max(1, _WEIGHTS_AT_ONCE // (blocks.shape[1] * blocks.shape[2]))
    parts = []
    for start in range(0, blocks.shape[0], rows):
        part = blocks[start : start + rows]
        h = importance if importance is None or importance.ndim == 1 else importance[start : start + rows]
        parts.append(_search(part, limits, grid, h))
    return torch.cat(parts)


def _search(
    blocks: Float[Tensor, "r b width"], limits: tuple[int, int], grid: Grid, importance: Float[Tensor, ...] | None
) -> Float32[Tensor, "r b"]:
    """`clipped_scale` for a number of rows that fits into memory."""
    best = grid.nearest_allowed_scale(covering_scale(blocks, limits))
    cover = best
    # In units of the covering scale no square over- or underflows.
    x = blocks / cover[..., None]
    h = torch.ones_like(x[..., :1]) if importance is None else importance

    def error(scale: Tensor) -> tuple[Tensor, Tensor]:
        ratio = (scale / cover)[..., None]
        codes = nearest_codes(x, ratio, limits)
        return ((codes * ratio - x).square_() * h).sum(-1), codes

    least, codes = error(best)
    for ratio in _RATIOS[1:]:
        scale = grid.nearest_allowed_scale(cover * ratio)
        loss, new_codes = error(scale)
        better = loss < least
        best, least = torch.where(better, scale, best), torch.where(better, loss, least)
        codes = torch.where(better[..., None], new_codes, codes)
    for _ in range(_LEAST_SQUARES_STEPS):
        norm = (codes.square() * h).sum(-1)
        ratio = (codes * x * h).sum(-1) / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        scale = grid.nearest_allowed_scale(torch.where(ratio > 0, cover * ratio, best))
        loss, new_codes = error(scale)
        better = loss < least
        best, least = torch.where(better, scale, best), torch.where(better, loss, least)
        codes = torch.where(better[..., None], new_codes, codes)
    return best


@dataclass(frozen=True)
class Mse:
    """Round to nearest with the scales of least squared weight error.

    Clipping lowers the variance of the outputs, so below 4 bits the moments of the outputs should be matched afterwards.

    Attributes:
        grid: the integers that the target allows.

    Example:
        >>> from dyncompress.types import Layer
        >>> nothing = Observation(Layer("fc", "linear", (1, 3), 0), {})
        >>> encoded = Mse()(torch.tensor([[0.3, -0.2, 0.1]]), nothing, Choice(weight_bits=3))
        >>> encoded.codes.tolist(), [round(s, 6) for s in encoded.scale.tolist()]
        ([[3, -2, 1]], [0.1])
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
        """None: tables of options are computed with the quantizer itself."""
        return None

    def on_grid(self, grid: Grid) -> Mse:
        """The same quantizer on another grid."""
        return replace(self, grid=grid)

    def __call__(self, weight: Float[Tensor, ...], observation: Observation, choice: Choice) -> Encoding:
        """Round a weight `[out, in / groups, *kernel]` to `choice.weight_bits`, with scales for each `choice.granularity`.

        Returns:
            Codes in the weight's shape, int8, and scales: `[1]` for the tensor, `[out]` for channels, `[out, blocks]` for groups.

        Raises:
            InvalidRequest: the weight isn't finite, or the width or granularity doesn't exist.
        """
        matrix = float_matrix(weight)
        limits = self.grid.limits(choice.weight_bits)
        scale = clipped_scale(scale_blocks(matrix, choice.granularity), limits, self.grid)
        codes = nearest_codes(matrix, expand_scale(scale, (matrix.shape[0], matrix.shape[1]), choice.granularity), limits)
        return encoding(codes, scale, weight, choice)
