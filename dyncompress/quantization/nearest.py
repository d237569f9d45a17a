"""Round to nearest with the smallest scale that clips no weight."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dyncompress.linalg.deferred import Tensor, torch
from dyncompress.quantization.grid import SMALLEST_SCALE, Grid, encoding, expand_scale, float_matrix, scale_blocks
from dyncompress.types import Choice, Encoding, Need, Observation, Weight
from dyncompress.types.arrays import Float


def covering_scale(blocks: Float[Tensor, "r b width"], limits: tuple[int, int]) -> Float[Tensor, "r b"]:
    """The smallest scale at which no weight of a block is clipped, max(max w / high, min w / low).

    Args:
        blocks: weights, those of one scale on the last axis, `[r, b, width]`; see `scale_blocks`.
        limits: lowest and highest code.

    Returns:
        `[r, b]`, positive; 1 for a block of zeros.

    Example:
        >>> covering_scale(torch.tensor([[[3.0, -2.0]]]), (-2, 1))
        tensor([[3.]])
    """
    low, high = limits
    scale = torch.maximum(blocks.amax(-1) / high, blocks.amin(-1) / low)
    return torch.where(scale > 0, scale, torch.ones_like(scale)).clamp_min(SMALLEST_SCALE)


def nearest_codes(
    matrix: Float[Tensor, "*shape"], scale: Float[Tensor, "*#shape"], limits: tuple[int, int]
) -> Float[Tensor, "*shape"]:
    """The nearest codes, `clamp(round(w / scale), low, high)`: integers in a float tensor of the weights' shape."""
    return (matrix / scale).round_().clamp_(*limits)


@dataclass(frozen=True)
class Nearest:
    """Round to nearest with min-max scales.

    Every error is at most half a scale, unless the grid's power-of-two scales were rounded down.

    Attributes:
        grid: the integers that the target allows.

    Example:
        >>> from dyncompress.types import Layer
        >>> nothing = Observation(Layer("fc", "linear", (2, 2), 0), {})
        >>> encoded = Nearest()(torch.tensor([[1.0, -0.5], [0.0, 127.0]]), nothing, Choice(weight_bits=8))
        >>> encoded.codes.tolist(), [round(s, 6) for s in encoded.scale.tolist()]
        ([[127, -64], [0, 127]], [0.007874, 1.0])
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

    def on_grid(self, grid: Grid) -> Nearest:
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
        scale = self.grid.nearest_allowed_scale(covering_scale(scale_blocks(matrix, choice.granularity), limits))
        codes = nearest_codes(matrix, expand_scale(scale, (matrix.shape[0], matrix.shape[1]), choice.granularity), limits)
        return encoding(codes, scale, weight, choice)
