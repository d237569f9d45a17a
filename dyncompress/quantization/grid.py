"""The integer grid of a weight: which codes exist, which weights share a scale, and which value a code stands for.

Every quantizer rounds to `codes * scale`. Code 0 is zero, so zeros stay exact zeros and no zero point is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from dyncompress.errors import InvalidRequest
from dyncompress.linalg.deferred import Tensor, torch
from dyncompress.types import Choice, Encoding
from dyncompress.types.arrays import Float, Float32

SMALLEST_SCALE = 2.0**-126  # the smallest normal float32


@dataclass(frozen=True)
class Grid:
    """The codes and scales that a target allows.

    At 8 bits codes lie in [-127, 127]: kernels that negate weights or add products in pairs need that, and one code of 256
    makes no measurable difference. Below 8 bits the full range [-2^(b-1), 2^(b-1) - 1] is used, because one code more matters
    there: at 2 bits a symmetric range would use only {-1, 0, 1} of the four values that are stored.

    Attributes:
        symmetric: use [-(2^(b-1) - 1), 2^(b-1) - 1] below 8 bits as well.
        reduce_range: use 7-bit codes at 8 bits, for instruction sets whose 16-bit sums saturate.
        power_of_two: round scales to powers of two, for devices that scale by shifting.
        full_range: use the code -128 at 8 bits as well (-64 with `reduce_range`).
    """

    symmetric: bool = False
    reduce_range: bool = False
    power_of_two: bool = False
    full_range: bool = False

    def limits(self, bits: int) -> tuple[int, int]:
        """Lowest and highest code at a width of `bits`.

        Example:
            >>> Grid().limits(8), Grid().limits(2), Grid(symmetric=True).limits(4), Grid(reduce_range=True).limits(8)
            ((-127, 127), (-2, 1), (-7, 7), (-63, 63))
            >>> Grid(full_range=True).limits(8)
            (-128, 127)

        Raises:
            InvalidRequest: the width isn't 2 to 8.
        """
        if not 2 <= bits <= 8:
            raise InvalidRequest(f"weight_bits is {bits}; an integer weight has 2 to 8 bits (32 leaves it in float32).")
        if bits == 8:
            high = 63 if self.reduce_range else 127
            return (-high - 1 if self.full_range and not self.symmetric else -high), high
        high = 2 ** (bits - 1) - 1
        return (-high if self.symmetric else -high - 1), high

    def nearest_allowed_scale(self, scale: Float[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
        """The scale of the target nearest to `scale` (in the logarithm): float32, positive, a power of two where it must be.

        Example:
            >>> Grid(power_of_two=True).nearest_allowed_scale(torch.tensor([0.3, 3.0]))
            tensor([0.2500, 4.0000])
        """
        scale = scale.to(torch.float32).clamp_min(SMALLEST_SCALE)
        return torch.exp2(scale.log2().round()).clamp_min(SMALLEST_SCALE) if self.power_of_two else scale


def float_matrix(weight: Float[Tensor, ...]) -> Float32[Tensor, "out K"]:
    """The weight `[out, in / groups, *kernel]` as a float32 matrix `[out, K]`, checked to be finite.

    Raises:
        InvalidRequest: fewer than two axes, no entries, or NaN or infinite values.
    """
    if weight.ndim < 2 or weight.numel() == 0:
        raise InvalidRequest(f"a weight of shape {tuple(weight.shape)} can't be quantized; pass (out, in / groups, *kernel).")
    matrix = weight.detach().to(torch.float32).flatten(1)
    if not bool(torch.isfinite(matrix).all()):
        raise InvalidRequest("the weight holds values that are NaN, infinite or too large for float32; repair the model.")
    return matrix


def group_size(granularity: str, columns: int) -> int:
    """Number of inputs that share a scale: 0 for "tensor", `columns` for "channel", min(N, columns) for "group:N".

    Raises:
        InvalidRequest: another word, or N below 1.
    """
    if granularity == "tensor":
        return 0
    if granularity == "channel":
        return columns
    word, _, number = granularity.partition(":")
    if word == "group" and number.isdecimal() and int(number) > 0:
        return min(int(number), columns)
    raise InvalidRequest(f"granularity is '{granularity}'; use tensor, channel, or group:N for N inputs per scale.")


def scale_blocks(matrix: Float[Tensor, "out K"], granularity: str) -> Float[Tensor, "r b width"]:
    """Reshape a weight matrix so that the weights of one scale lie on the last axis; a short last group is padded with zeros.

    Args:
        matrix: `[out, K]`.
        granularity: "tensor", "channel" or "group:N".

    Returns:
        `[r, b, width]`: `[1, 1, out * K]` for a tensor, `[out, 1, K]` for channels, `[out, blocks, N]` for groups.

    Raises:
        InvalidRequest: the granularity doesn't exist.
    """
    size = group_size(granularity, matrix.shape[1])
    if size == 0:
        return matrix.reshape(1, 1, -1)
    short = -matrix.shape[1] % size
    return torch.nn.functional.pad(matrix, (0, short)).unflatten(1, (-1, size))


def expand_scale(scale: Float[Tensor, "r b"], shape: tuple[int, int], granularity: str) -> Float[Tensor, "out K"]:
    """Expand the scales `[r, b]` of `scale_blocks` to one scale for every weight, `[out, K]` = `shape`."""
    size = group_size(granularity, shape[1])
    if size == 0:
        return scale.reshape(1, 1).expand(shape)
    if scale.shape[1] == 1:
        return scale.expand(shape)
    return scale.repeat_interleave(size, dim=1)[:, : shape[1]]


def encoding(
    codes: Float[Tensor, "out K"], scale: Float[Tensor, ...], weight: Float[Tensor, " out *rest"], choice: Choice
) -> Encoding:
    """The `Encoding` of codes `[out, K]` and scales `[r, b]`, with the codes in the shape of `weight`."""
    size = 0 if choice.granularity in ("tensor", "channel") else group_size(choice.granularity, codes.shape[1])
    scale = scale.to(torch.float32)
    return Encoding(
        codes=codes.to(torch.int8).reshape(weight.shape),
        scale=scale if size else scale.reshape(-1),
        bits=choice.weight_bits,
        group=size,
    )


def decode(encoded: Encoding) -> Float32[Tensor, " out *rest"]:
    """The weight that an encoding stands for, `codes * scale`, float32, in the shape of the codes.

    Example:
        >>> decode(Encoding(codes=torch.tensor([[2, -1], [0, 3]]), scale=torch.tensor([0.5, 2.0]), bits=3))
        tensor([[ 1.0000, -0.5000],
                [ 0.0000,  6.0000]])
    """
    codes = encoded.codes.to(torch.float32)
    matrix = codes.flatten(1)
    if encoded.group:
        scale = expand_scale(encoded.scale, (matrix.shape[0], matrix.shape[1]), f"group:{encoded.group}")
    else:
        scale = encoded.scale.reshape(-1, 1)
    return (matrix * scale).reshape(codes.shape)
