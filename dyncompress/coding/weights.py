# pyright: reportArgumentType=false
# (one model writes and reads: a reader is given nothing)
"""Small integers of a weight: each coded by a table that its row, its column and its neighbours in the kernel choose.

Codes of one layer share a step, so that their spread follows the output row, the input column and the position in the
kernel, and neighbours in a smooth kernel have like signs. A tensor `(out, in, *kernel)` is coded position by position, the
centre of the kernel first, and each position in blocks of rows. Everything a block's tables depend on is known from blocks
before it, so that nothing but the codes is in the stream:

- **scale**: a log-linear mean of the magnitudes so far in the row, the column, the position and the kernel,
- **mean**: least squares on up to 8 neighbours in the kernel that are coded already; normal equations are sums of integers,
  solved in exact integer arithmetic, and carried from layer to layer,
- **table**: one of 38 scales x 7 ratios mean / scale, mirrored so that the mean isn't negative; adaptive, started from a
  discretised logistic density.

Codes that follow paths of `coding.trellis` are written as indices, by tables for the class of their state. A tensor's paths run
along its rows' axis, in as many lanes as a block has rows, so that a block's states are known before it.

Magnitudes of 12 and more are escapes: a bit length from a table, and its bits.

Everything is integer arithmetic; float64 holds integers below 2^53 in two matrix products, where it is exact in any order.

**Source**: the contexts are ours, in the manner of lossless image coders (MRP, TMW, CALIC). Cost: 0.1 us a code and 0.2 ms a
block, at most 290 blocks a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from math import isqrt
from typing import Protocol, runtime_checkable

import numpy as np

from dyncompress.coding.layout import Layout
from dyncompress.coding.tables import Tables
from dyncompress.coding.trellis import CLASS, NEXT, code_of, index_of
from dyncompress.errors import Altered

_ONE = 256  # fixed point of magnitudes and of logarithms
_LARGEST = (1 << 16) - 1  # whose logarithm is tabulated
_LIMIT = 12  # magnitudes from here on are escapes
_WIDTH = 2 * _LIMIT + 1
_SCALES, _UNIT_SCALE, _PER_OCTAVE = 38, 16, 3
_RATIOS = (15, 51, 102, 166, 256, 384)  # classes of |mean| / (scale + 0.15), in 256ths
_SET, _ESCAPES = _SCALES * (len(_RATIOS) + 1), 10
_UPPER = (lambda k: 2 * k + 1, lambda k: 4 * k + 2, lambda k: max(4 * k, 1))  # halves, of k >= 0: plain codes, indices by class
_PRIOR = 80 * 32
_RIDGE, _CARRIED = 30, 400  # in samples of unit spread
_ROW, _COLUMN, _POSITION, _BOTH, _KERNEL = 6, 6, 60, 30, 6  # samples that the mean of all counts for in each
_FIRST = 179  # mean magnitude before anything is known
_W_COLUMN, _W_POSITION, _W_BOTH, _W_KERNEL = 13, 10, 2, 5  # 16ths; the row's weight is 16


@runtime_checkable
class Coder(Protocol):
    """`rans.Writer` or `rans.Reader`."""

    def symbols(self, tables: Tables, contexts: np.ndarray, given: np.ndarray) -> np.ndarray:
        """Symbols as written or read."""
        ...

    def uniform(self, bits: np.ndarray, given: np.ndarray) -> np.ndarray:
        """Numbers as written or read."""
        ...


@cache
def _logarithms() -> np.ndarray:
    """Base 2, 256ths, linear between powers of two, of 0 (as 1) to 2^16 - 1."""
    table = np.zeros(1 << 16, np.int64)
    for k in range(16):
        table[1 << k : 2 << k] = (k << 8) + ((np.arange(1 << k) << 8) >> k)
    return table


def _power(y: int) -> int:
    """2^(-y / 64) in units of 2^-30, by square roots."""
    value = 1 << 30
    root = 1 << 30 >> 1
    for bit in (32, 16, 8, 4, 2, 1):
        root = isqrt(root << 30)
        if y & bit:
            value = value * root >> 30
    return value >> min(y >> 6, 60) if y >= 0 else value << min(-(y >> 6), 60)


@cache
def _prior() -> np.ndarray:
    """Counts of every class: a logistic density of the class's mean and scale, integrated over the codes; then the escapes'."""
    centres = [0, *((a + b) // 2 for a, b in pairwise(_RATIOS)), _RATIOS[-1] * 13 // 10]
    rows = []
    for upper in _UPPER:
        edges = [-upper(-k - 1) if k < 0 else upper(k) for k in range(-_LIMIT, _LIMIT)]
        for index in range(_SCALES):
            scale = _power(-64 * (index - _UNIT_SCALE) // _PER_OCTAVE) >> 14  # 65536ths
            width = max(scale * 62 // 100, 7864)
            for ratio in centres:
                mean = ratio * (scale + 9830) >> 8
                below = [0]
                for edge in edges:
                    far = ((edge << 15) - mean) * 92 // width  # 64 log2(e) = 92.3
                    below.append((_PRIOR << 30) // ((1 << 30) + _power(min(max(far, -1800), 1800))))
                below.append(_PRIOR)
                rows.append([max(b - a, 0) + 1 for a, b in pairwise(below)])
    escapes = [[64 >> min(k, 5) if k < 8 else 0 for k in range(_WIDTH)]] * _ESCAPES
    return np.array(rows + escapes, np.int64)


@cache
def _ratio_classes() -> np.ndarray:
    """Class of |mean| / scale `[scales, 129]`, by scale and the logarithm of the mean (256ths) in eighths."""
    scale = np.array([_power(-64 * (i - _UNIT_SCALE) // _PER_OCTAVE) >> 22 for i in range(_SCALES)]) + 38
    mean = np.array([_power(-8 * k) >> 22 for k in range(129)])
    return (mean[None, :, None] > scale[:, None, None] * np.array(_RATIOS)).sum(-1)


def solve(matrix: list[list[int]], right: list[int]) -> list[int]:
    """`matrix^-1 right` in 256ths, rounded, by fraction-free elimination (Bareiss): exact for any integers.

    Example:
        >>> solve([[2, 1], [1, 3]], [3, 5])
        [205, 358]
    """
    n = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    before = 1
    for k in range(n):
        pivot = rows[k][k]
        for i in range(n):
            if i != k:
                factor = rows[i][k]
                rows[i] = [(pivot * a - factor * b) // before for a, b in zip(rows[i], rows[k], strict=True)]
        before = pivot
    return [(512 * row[n] + before) // (2 * before) for row in rows]


class WeightMemory:
    """What one tensor leaves to the next: tables, the mean magnitude, and normal equations by kernel and position."""

    def __init__(self) -> None:
        """Before the first tensor."""
        self.tables = Tables(_prior())
        self.level = _FIRST
        self.equations: dict[tuple[int, int], tuple[np.ndarray, int]] = {}


def code_weights(
    coder: Coder, memory: WeightMemory, shape: Sequence[int], given: np.ndarray | None = None, on_paths: bool = False
) -> np.ndarray:
    """Write or read the codes of one tensor.

    Args:
        coder: where they go, or come from.
        memory: of the tensors before; changed.
        shape: `(out, in, *kernel)`; one axis counts as one column.
        given: int8, that shape; None for reading.
        on_paths: whether they are indices on paths that run along the first axis, `(in, out, *kernel)`.

    Returns:
        The codes, int8, that shape.

    Raises:
        Altered: what was read aren't int8 codes.
    """
    layout = Layout.of(shape, alike=on_paths)
    known = None if given is None else layout.seen(given)
    tensor = _Tensor(memory, np.zeros(layout.shape, np.int8))
    for turn, begins, rows in layout.blocks():
        at, part, near = layout.phases[turn]
        if begins:
            tensor.phase(turn, near, part)
            if on_paths and layout.anew(turn):
                tensor.states = np.zeros((layout.rows[turn], part.stop - part.start), np.int64)
        tensor.block(coder, None if known is None else known[at, rows, part], at, rows)
        if rows.stop == layout.shape[1]:
            tensor.leave()
    memory.level = tensor.level()
    return np.ascontiguousarray(tensor.codes.transpose(1, 2, 0)).reshape(shape)


class _Tensor:
    """One tensor on its way: what is known of its spread, and its codes so far, `[position, out, in]`."""

    def __init__(self, memory: WeightMemory, codes: np.ndarray) -> None:
        self.memory, self.codes = memory, codes
        out, columns = codes.shape[1:]
        self.row, self.row_n = np.zeros(out, np.int64), np.zeros(out, np.int64)
        self.column, self.column_n = np.zeros(columns, np.int64), np.zeros(columns, np.int64)
        self.kernel = np.zeros((out, columns), np.int64)
        self.whole, self.whole_n = 2 * memory.level, 2
        self.states: np.ndarray | None = None  # [row of a block, column], where codes follow paths

    def level(self) -> int:
        """Mean magnitude so far, 256ths, at least 1."""
        return max(self.whole // self.whole_n, 1)

    def phase(self, turn: int, near: list[int], part: slice) -> None:
        """Begin a position (or a range of columns)."""
        self.turn, self.near, self.part = turn, near, part
        width = part.stop - part.start
        self.position, self.position_n = 0, 0
        self.both, self.both_n = np.zeros(width, np.int64), 0
        self.sums, self.n, self.solved = np.zeros((len(near), len(near) + 1)), 0, 0
        self.mean = np.zeros(len(near))
        if near:
            kept, n = self.memory.equations.get((len(self.codes), turn), (self.sums, 0))
            keep = min(n, _CARRIED)
            self.sums, self.n = _scaled(kept, keep, n), keep

    def leave(self) -> None:
        """End a position: its normal equations stay for the next tensor of this kernel."""
        if self.near:
            self.memory.equations[len(self.codes), self.turn] = (self.sums, self.n)

    def block(self, coder: Coder, given: np.ndarray | None, at: int, rows: slice) -> None:
        """Write or read a block of rows of the position `at`, and learn from it."""
        lg, level = _logarithms(), self.level()
        row = (_ONE * self.row[rows] + _ROW * level) // (self.row_n[rows] + _ROW)
        column = (_ONE * self.column[self.part] + _COLUMN * level) // (self.column_n[self.part] + _COLUMN)
        position = (_ONE * self.position + _POSITION * level) // (self.position_n + _POSITION)
        both = (_ONE * self.both + _BOTH * (column * position // level)) // (self.both_n + _BOTH)
        both = np.minimum(both, _LARGEST)
        unit = lg[level]
        by_row, by_column, by_position = lg[row], lg[column] - unit, lg[position] - unit
        along = _W_COLUMN * by_column + _W_POSITION * by_position
        along += _W_BOTH * (lg[both] - unit - by_column - by_position)
        scale = 16 * by_row[:, None] + along
        spread = by_row[:, None] + by_column
        mean, inputs = None, None
        if self.near:
            base = row[:, None] * ((column << 8) // level) >> 8
            kernel = (_ONE * self.kernel[rows, self.part] + _KERNEL * base) // (self.turn + _KERNEL)
            scale += _W_KERNEL * (lg[np.minimum(kernel, _LARGEST)] - spread)
            inputs = self.codes[self.near, rows].reshape(len(self.near), -1).astype(np.float64)
            mean = (self._weights() @ inputs).astype(np.int64)
        index = np.clip((_PER_OCTAVE * (scale.ravel() >> 4) + 128 >> 8) - 8 * _PER_OCTAVE + _UNIT_SCALE, 0, _SCALES - 1)
        state = None if self.states is None else self.states[: len(row)]
        found = self._coded(coder, index, mean, state, None if given is None else given.ravel().astype(np.int64))
        self.codes[at, rows, self.part] = found.reshape(scale.shape)
        if inputs is not None:
            self._learn(inputs, found, spread.ravel())
        self._count(np.abs(found).reshape(scale.shape), rows)

    def _coded(
        self, coder: Coder, index: np.ndarray, mean: np.ndarray | None, state: np.ndarray | None, given: np.ndarray | None
    ) -> np.ndarray:
        tables, context, sign, kind = self.memory.tables, index * (len(_RATIOS) + 1), 1, None
        if state is not None:
            kind = CLASS[state].ravel()
            context = context + _SET * (1 + kind)
        if mean is not None:
            sign = np.where(mean < 0, -1, 1)
            context = context + _ratio_classes()[index, _logarithms()[np.minimum(np.abs(mean), _LARGEST)] >> 5]
        known = None if given is None else (given if kind is None else index_of(given, kind)) * sign
        token = coder.symbols(tables, context, None if known is None else np.clip(known, -_LIMIT, _LIMIT) + _LIMIT)
        tables.add(context, token)
        value = token - _LIMIT
        far = np.flatnonzero(np.abs(value) == _LIMIT)
        if len(far):
            value[far] = _escaped(coder, tables, index[far], np.sign(value[far]), None if known is None else known[far])
        value = value * sign
        if state is None or kind is None:
            return _bytes_only(value)
        state[:] = NEXT[state, value.reshape(state.shape) & 1]
        return _bytes_only(code_of(value, kind))

    def _weights(self) -> np.ndarray:
        """Least-squares weights of the neighbours, 256ths; solved again when there is a seventh more to learn from."""
        if 8 * self.n > 9 * self.solved or not self.solved:
            sums = self.sums.astype(np.int64).tolist()
            for i, line in enumerate(sums):
                line[i] += _RIDGE << 8
            self.mean = np.array(solve([line[:-1] for line in sums], [line[-1] for line in sums]), np.float64)
            self.solved = max(self.n, 1)
        return self.mean

    def _learn(self, inputs: np.ndarray, found: np.ndarray, spread: np.ndarray) -> None:
        weight = np.left_shift(1, 2 * np.clip(12 - (spread >> 8), 0, 6))
        self.sums += (inputs * weight) @ np.vstack([inputs, found]).T
        self.n += len(found)

    def _count(self, magnitude: np.ndarray, rows: slice) -> None:
        by_row, by_column = magnitude.sum(1), magnitude.sum(0)
        high, wide = magnitude.shape
        self.row[rows] += by_row
        self.row_n[rows] += wide
        self.column[self.part] += by_column
        self.column_n[self.part] += high
        self.kernel[rows, self.part] += magnitude
        self.both += by_column
        self.both_n += high
        whole = int(by_row.sum())
        self.position += whole
        self.position_n += high * wide
        self.whole += _ONE * whole
        self.whole_n += high * wide


def _scaled(sums: np.ndarray, keep: int, n: int) -> np.ndarray:
    return (sums.astype(np.int64) // max(n, 1) * keep).astype(np.float64)


def _escaped(coder: Coder, tables: Tables, index: np.ndarray, sign: np.ndarray, given: np.ndarray | None) -> np.ndarray:
    """Values whose magnitude is 12 or more: the bit length of what is above, then its lower bits."""
    context = len(_UPPER) * _SET + np.minimum(index >> 2, _ESCAPES - 1)
    above = None if given is None else np.abs(given) - _LIMIT
    length = coder.symbols(tables, context, None if above is None else _lengths()[above])
    tables.add(context, length)
    if (length > 7).any():
        raise Altered("a weight code lies outside of a byte; the file was changed.")
    bits = np.maximum(length - 1, 0)
    top = np.left_shift(1, bits) * (length > 0)
    low = coder.uniform(bits, None if above is None else above - top)
    return (top + low + _LIMIT) * sign


def _bytes_only(value: np.ndarray) -> np.ndarray:
    if (value < -128).any() or (value > 127).any():
        raise Altered("a weight code lies outside of a byte; the file was changed.")
    return value


@cache
def _lengths() -> np.ndarray:
    return np.array([value.bit_length() for value in range(256)])
