"""In which order the codes of a weight are written: position by position of the kernel, in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

_BLOCK, _BLOCKS = 64, 288  # fewest codes in a block, most blocks in a tensor
_NEIGHBOURS, LARGEST_KERNEL = 8, 256


@dataclass(frozen=True)
class Layout:
    """In which order the codes of a tensor are written.

    Attributes:
        shape: `(position, row, column)`.
        phases: position, range of columns, and the coded neighbours of the position.
        rows: of a block, phase by phase.
    """

    shape: tuple[int, int, int]
    phases: list[tuple[int, slice, list[int]]]
    rows: list[int]

    @classmethod
    def of(cls, shape: Sequence[int], alike: bool = False) -> Layout:
        """Of a tensor `(out, in, *kernel)`; one axis counts as one column.

        Args:
            shape: of the tensor.
            alike: whether all blocks have as many rows as those of the first phase.
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
        """Phase, whether it begins, and rows, block after block."""
        for turn, rows in enumerate(self.rows):
            for first in range(0, self.shape[1], rows):
                yield turn, not first, slice(first, min(first + rows, self.shape[1]))

    def anew(self, turn: int) -> bool:
        """Whether paths begin with a phase: with the first position, and with every range of columns."""
        return not turn or self.shape[0] == 1

    def seen(self, tensor: np.ndarray) -> np.ndarray:
        """The tensor as `[position, row, column]`."""
        size, out, columns = self.shape
        return np.ascontiguousarray(tensor.reshape(out, columns, size).transpose(2, 0, 1))


def positions(kernel: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Positions of a kernel in the order of coding, the centre first, with up to 8 coded neighbours, the nearest first.

    Example:
        >>> positions((3,))
        [(1, []), (0, [1]), (2, [1, 0])]
    """
    points = np.stack(np.unravel_index(np.arange(prod(kernel)), kernel), 1)
    far = (np.abs(2 * points - (np.array(kernel) - 1)) ** 2).sum(1)
    order = [int(i) for i in np.argsort(far, kind="stable")]
    found = []
    for at, here in enumerate(order):
        before = np.array(order[:at], np.int64)
        near = np.argsort(((points[before] - points[here]) ** 2).sum(1), kind="stable")[:_NEIGHBOURS] if at else before
        found.append((here, [int(i) for i in before[near]]))
    return found
