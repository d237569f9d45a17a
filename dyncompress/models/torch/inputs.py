"""The inputs that a layer's weight matrix multiplies, and their second moment.

A convolution multiplies one patch of its input for every output position, and patches overlap: for stride 1 the product of kernel
rows a and b depends on b - a alone, except at the first and last rows of the image. `InputSums` uses this for 2-D convolutions
with one group. It unfolds rows along the width only and correlates them once for each distance. For a 3x3 kernel this takes a
third of the arithmetic and of the copies, with the same result.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from dyncompress import linalg
from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.layers import Weighted, groups_of, kind_of

# Numbers in one block of unfolded inputs, and in the products of its rows.
_BLOCK_NUMBERS = 8_000_000

Blocks = dict[tuple[int, int], Tensor]  # a pair of kernel rows (a, b), a <= b -> the sum of products of their inputs


class InputSums:
    """The second moment of one layer's inputs over a stream of batches; float32 products, float64 totals."""

    def __init__(self) -> None:
        """Start without inputs."""
        self._plain = linalg.SecondMoment()
        self._blocks: Blocks = {}
        self._layer: Weighted | None = None
        self._rows = 0

    def add(self, layer: Weighted, x: Tensor) -> None:
        """Add one batch of inputs, in blocks of bounded size.

        Args:
            layer: the layer; always the same one.
            x: its input, `[n, in, *space]` for a convolution and `[..., in]` for a linear layer.

        Raises:
            InvalidRequest: an input isn't finite.
        """
        if kind_of(layer) == "linear":
            self._plain.add(x.reshape(-1, x.shape[-1]))
            return
        overlapping = groups_of(layer) == 1 and len(layer.kernel_size) == 2 and layer.kernel_size[0] > 1
        unfold = row_strips if overlapping else patches
        step = max(1, _BLOCK_NUMBERS // max(unfold(layer, x[:1]).numel(), 1))
        for block in x.split(step):
            if overlapping:
                self._add_strips(layer, row_strips(layer, block))
            else:
                self._plain.add(patches(layer, block))

    def _add_strips(self, layer: Weighted, strips: Tensor) -> None:
        """Add the products of the strips for every pair of kernel rows."""
        if not self._blocks:
            rows, columns = range(layer.kernel_size[0]), strips.shape[1]
            for pair in ((a, b) for a in rows for b in rows if a <= b):
                self._blocks[pair] = torch.zeros(columns, columns, dtype=torch.float64, device=strips.device)
            self._layer = layer
        positions = add_correlations(layer, strips, self._blocks)
        self._rows += positions * strips.shape[2]

    @property
    def value(self) -> Tensor:
        """The second moment `[groups, K, K]`, float64 and exactly symmetric, with K = in / groups * kernel.

        Raises:
            InvalidRequest: no inputs were added, or one wasn't finite.
        """
        if not self._blocks:
            return self._plain.value
        total = assemble(self._layer, self._blocks)
        if not all(math.isfinite(float(end)) for end in torch.aminmax(total)):  # isfinite copies the matrix
            raise InvalidRequest("second moment: an input is NaN or infinite, or its square overflows; clean the data.")
        return total.div_(self._rows)[None]


def row_strips(layer: Weighted, x: Tensor) -> Tensor:
    """The padded input of a 2-D convolution, unfolded along the width: `[height, in * kernel_width, n * out_width]`.

    Args:
        layer: convolution or transposed convolution with one group.
        x: `[n, in, height, width]`.
    """
    x, stride = _padded_input(layer, x)
    gap = layer.dilation[1]
    view = x.unfold(3, gap * (layer.kernel_size[1] - 1) + 1, stride[1])[..., ::gap]
    return view.permute(2, 1, 4, 0, 3).reshape(x.shape[2], x.shape[1] * layer.kernel_size[1], -1)


def add_correlations(layer: Weighted, strips: Tensor, blocks: Blocks) -> int:
    """Add the sum of x x^T over all patches x to `blocks`, in place.

    Let R_r be the strip of image row r, s the stride and g the dilation. The block of kernel rows (a, b) is the sum over output
    rows p of R_(sp + ga) R_(sp + gb)^T. For stride 1 the products at distance b - a are formed once and summed over the rows of
    each pair.

    Args:
        layer: the convolution.
        strips: `[height, C, n * out_width]`, from `row_strips`.
        blocks: kernel rows (a, b), a <= b -> `[C, C]`, float64.

    Returns:
        the number of output rows.
    """
    size, gap = layer.kernel_size[0], layer.dilation[0]
    stride = 1 if kind_of(layer).startswith("conv_transpose") else layer.stride[0]
    positions = (len(strips) - gap * (size - 1) - 1) // stride + 1
    at_once = max(1, _BLOCK_NUMBERS // strips.shape[1] ** 2)
    for distance in range(size):
        shift = gap * distance
        starts = [gap * a for a in range(size - distance)]
        if stride > 1:  # pairs share no rows
            for a, start in enumerate(starts):
                for low in range(0, positions, at_once):
                    rows = slice(start + stride * low, start + stride * (min(low + at_once, positions) - 1) + 1, stride)
                    far = slice(rows.start + shift, rows.stop + shift, stride)
                    blocks[a, a + distance] += (strips[rows] @ strips[far].mT).sum(0, dtype=torch.float64)
            continue
        height = starts[-1] + positions
        for low in range(0, height, at_once):
            high = min(low + at_once, height)
            products = strips[low:high] @ strips[low + shift : high + shift].mT
            for a, start in enumerate(starts):
                inside = products[max(start - low, 0) : max(start + positions - low, 0)]
                blocks[a, a + distance] += inside.sum(0, dtype=torch.float64)
    return positions


def assemble(layer: Weighted, blocks: Blocks) -> Tensor:
    """The symmetric matrix `[K, K]` of all blocks (a, b), a <= b, in the weight's order (in, height, width)."""
    size, width = layer.kernel_size
    first = blocks[0, 0]
    whole = first.new_empty(len(first) // width, size, width, len(first) // width, size, width)
    reversed_kernel = kind_of(layer).startswith("conv_transpose")
    for (a, b), block in blocks.items():
        part = ((block + block.mT) / 2 if a == b else block).unflatten(1, (-1, width)).unflatten(0, (-1, width))
        if reversed_kernel:
            a, b, part = size - 1 - a, size - 1 - b, part.flip(1, 3)
        whole[:, a, :, :, b] = part
        whole[:, b, :, :, a] = part.permute(2, 3, 0, 1)
    return whole.reshape(size * len(first), size * len(first))


def patches(layer: Weighted, x: Tensor) -> Tensor:
    """The inputs of a convolution at every output position, `[groups, n * positions, in / groups * kernel]`.

    A transposed convolution is a convolution of its zero-stuffed input with the reversed kernel.

    Example:
        >>> patches(torch.nn.Conv1d(1, 1, 2), torch.tensor([[[1.0, 2.0, 3.0]]])).tolist()
        [[[1.0, 2.0], [2.0, 3.0]]]

    Args:
        layer: a convolution with 1 to 3 spatial axes, any stride, dilation, groups and padding mode.
        x: `[n, in, *space]`.
    """
    kernel, dilation = layer.kernel_size, layer.dilation
    x, stride = _padded_input(layer, x)
    view = x.unflatten(1, (groups_of(layer), -1))
    for axis, (size, hop, gap) in enumerate(zip(kernel, stride, dilation, strict=True)):
        view = view.unfold(3 + axis, gap * (size - 1) + 1, hop)[..., ::gap]
    if kind_of(layer).startswith("conv_transpose"):
        view = view.flip(tuple(range(-len(kernel), 0)))
    spatial = len(kernel)
    order = (1, 0, *range(3, 3 + spatial), 2, *range(3 + spatial, 3 + 2 * spatial))
    rows = view.permute(order)
    return rows.reshape(rows.shape[0], rows.shape[1 : -1 - spatial].numel(), -1)


def _padded_input(layer: Weighted, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The padded input of a convolution, and the stride at which the kernel moves over it."""
    if kind_of(layer).startswith("conv_transpose"):
        return _stuff_zeros(layer, x), (1,) * len(layer.kernel_size)
    return _pad(layer, x), layer.stride


def _pad(layer: Weighted, x: Tensor) -> Tensor:
    """The input with the convolution's own padding."""
    both = layer._reversed_padding_repeated_twice
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return functional.pad(x, tuple(both), mode=mode)


def _stuff_zeros(layer: Weighted, x: Tensor) -> Tensor:
    """The input of a transposed convolution with stride - 1 zeros between its values, padded to the kernel's full reach."""
    for axis, stride in enumerate(layer.stride):
        if stride > 1:
            wide = x.new_zeros(*x.shape[: 3 + axis], stride, *x.shape[3 + axis :])
            wide.select(3 + axis, 0).copy_(x)
            x = wide.flatten(2 + axis, 3 + axis)
            x = x.narrow(2 + axis, 0, x.shape[2 + axis] - stride + 1)
    pads: list[int] = []
    sizes = zip(layer.kernel_size, layer.dilation, layer.padding, layer.output_padding, strict=True)
    for size, gap, padding, extra in sizes:
        reach = gap * (size - 1) - padding
        pads = [reach, reach + extra, *pads]
    return functional.pad(x, pads)
