"""The order in which the codes of a weight are written: by position in the kernel, then in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from dyncompress.types.arrays import Integer

_BLOCK, _BLOCKS = 64, 288  # smallest number of codes in a block, largest number of blocks in a tensor
_NEIGHBOURS, LARGEST_KERNEL = 8, 256


@dataclass(frozen=True)
class Layout:
    """The order in which the codes of a tensor are written: phase after phase, and within each phase, block after block of rows.

    Attributes:
        shape: numbers of positions in the kernel, of rows and of columns.
        phases: for each, the position, the range of columns, and the neighbours of the position that are coded before it.
        rows: for each phase, the number of rows of a block.
    """

    shape: tuple[int, int, int]
    phases: list[tuple[int, slice, list[int]]]
    rows: list[int]

    @classmethod
    def of(cls, shape: Sequence[int], alike: bool = False) -> Layout:
        """The layout of a tensor.

        Args:
            shape: `(out, in, *kernel)`; a tensor with one axis counts as one column.
            alike: whether the blocks of all phases have the same number of rows.
        """
        out, *rest = (*shape, 1) if len(shape) == 1 else shape
        columns, kernel = rest[0], rest[1:] or (1,)
        if prod(kernel) > LARGEST_KERNEL:
            columns, kernel = prod(rest), (1,)
        wide = columns
        if prod(kernel) > 1:
            phases = [(at, slice(0, columns), near) for at, near in positions(kernel)]
        else:
            wide = max(1, -(-columns // 8))
            phases = [(0, slice(first, min(first + wide, columns)), []) for first in range(0, columns, wide)]
        widths = [wide if alike else part.stop - part.start for _, part, _ in phases]
        most = max(2, _BLOCKS // max(len(phases), 1))
        rows = [max(-(-_BLOCK // max(width, 1)), -(-out // most)) for width in widths]
        return cls((prod(kernel), out, columns), phases, rows)

    def blocks(self) -> Iterator[tuple[int, bool, slice]]:
        """For each block, the index of its phase, whether it is the first of the phase, and its rows."""
        for phase, rows in enumerate(self.rows):
            for first in range(0, self.shape[1], rows):
                yield phase, not first, slice(first, min(first + rows, self.shape[1]))

    def starts_paths(self, phase: int) -> bool:
        """Whether paths begin in this phase: in that of the first position, and in every phase of a kernel with one position."""
        return not phase or self.shape[0] == 1

    def by_position(self, tensor: Integer[np.ndarray, "*axes"]) -> Integer[np.ndarray, "position row column"]:
        """The tensor as an array `[position, row, column]`."""
        size, out, columns = self.shape
        return np.ascontiguousarray(tensor.reshape(out, columns, size).transpose(2, 0, 1))


def positions(kernel: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Positions of a kernel in the order of coding, from the centre on.

    Args:
        kernel: its sizes.

    Returns:
        For each position, its flat index and those of up to 8 neighbours that are coded before it, the nearest first.

    Example:
        >>> positions((3,))
        [(1, []), (0, [1]), (2, [1, 0])]
    """
    points = np.stack(np.unravel_index(np.arange(prod(kernel)), kernel), 1)
    far = (np.abs(2 * points - (np.array(kernel) - 1)) ** 2).sum(1)
    order = [int(i) for i in np.argsort(far, kind="stable")]
    neighbours = []
    for at, here in enumerate(order):
        before = np.array(order[:at], np.int64)
        near = np.argsort(((points[before] - points[here]) ** 2).sum(1), kind="stable")[:_NEIGHBOURS] if at else before
        neighbours.append((here, [int(i) for i in before[near]]))
    return neighbours
