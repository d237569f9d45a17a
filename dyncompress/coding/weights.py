# pyright: reportArgumentType=false
# (the same code writes and reads: a reader gets None in place of values)
"""Coding of a weight's integer codes: the table of each depends on its row, its column and its neighbours in the kernel.

The codes of one layer share a step. Therefore their spread depends on the output row, the input column and the position in the
kernel, and neighbours in a smooth kernel often have the same sign. A tensor `(out, in, *kernel)` is coded position by position,
from the centre of the kernel on, and each position in blocks of rows. The tables of a block depend on earlier blocks only, so
that the stream contains nothing but the codes:

- **scale**: a log-linear mean of the earlier magnitudes in the row, the column, the position and the kernel,
- **mean**: least squares on up to 8 neighbours in the kernel that are already coded; the normal equations are sums of integers,
  solved in exact integer arithmetic, and the next layer starts from them,
- **table**: one for each of 38 scales x 7 ratios mean / scale, with the sign changed where the mean is negative; the tables are
  adaptive and start from a discretised logistic density.

Codes that follow paths of `coding.trellis` are written as indices, with tables for the class of their state. The paths run along
the axis of rows, and there are as many as a block has rows, so that the states of a block are known before it.

Magnitudes of 12 and more are escapes: a bit length with a table, and then the bits.

All arithmetic is with integers. Two matrix products use float64 for integers below 2^53, which is exact in any order.

**Source**: the contexts are ours, similar to those of lossless image coders (MRP, TMW, CALIC). Cost: 0.1 us for each code and
0.2 ms for each block, at most 290 blocks a tensor.
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
from dyncompress.types.arrays import Float64, Int8, Int64

_ONE = 256  # 1 in the fixed-point format of magnitudes and logarithms
_LARGEST = (1 << 16) - 1  # largest number with a tabulated logarithm
_LIMIT = 12  # smallest magnitude of an escape
_WIDTH = 2 * _LIMIT + 1
_SCALES, _UNIT_SCALE, _PER_OCTAVE = 38, 16, 3
_RATIOS = (15, 51, 102, 166, 256, 384)  # classes of |mean| / (scale + 0.15), in 256ths
_SET, _ESCAPES = _SCALES * (len(_RATIOS) + 1), 10
_UPPER = (
    lambda k: 2 * k + 1,
    lambda k: 4 * k + 2,
    lambda k: max(4 * k, 1),
)  # upper ends of k >= 0 in halves: codes, then indices by class
_PRIOR = 80 * 32
_RIDGE, _CARRIED = 30, 400  # ridge and weight of the layer before, in samples of unit spread
_ROW, _COLUMN, _POSITION, _BOTH, _KERNEL = 6, 6, 60, 30, 6  # weight of the overall mean in each mean, in samples
_FIRST = 179  # mean magnitude before the first code, in 256ths
_W_COLUMN, _W_POSITION, _W_BOTH, _W_KERNEL = 13, 10, 2, 5  # weights of logarithms, in 16ths; that of the row is 16


@runtime_checkable
class Coder(Protocol):
    """`rans.Writer`, which gets values, or `rans.Reader`, which gets None in their place."""

    def symbols(self, tables: Tables, contexts: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Write or read symbols, and return them."""
        ...

    def uniform(self, bits: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Write or read numbers of so many bits, and return them."""
        ...


@cache
def _logarithms() -> Int64[np.ndarray, " 65536"]:
    """Logarithms of 0 (as 1) to 2^16 - 1, base 2, in 256ths, linear between powers of two."""
    table = np.zeros(1 << 16, np.int64)
    for k in range(16):
        table[1 << k : 2 << k] = (k << 8) + ((np.arange(1 << k) << 8) >> k)
    return table


def _power(y: int) -> int:
    """2^(-y / 64) in units of 2^-30, computed by integer square roots."""
    value = 1 << 30
    root = 1 << 30 >> 1
    for bit in (32, 16, 8, 4, 2, 1):
        root = isqrt(root << 30)
        if y & bit:
            value = value * root >> 30
    return value >> min(y >> 6, 60) if y >= 0 else value << min(-(y >> 6), 60)


@cache
def _prior() -> Int64[np.ndarray, "contexts width"]:
    """Prior counts of all contexts.

    They are logistic densities with the mean and scale of the context, integrated over the codes; those of escapes come last.
    """
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
def _ratio_classes() -> Int64[np.ndarray, "scales 129"]:
    """The class of |mean| / scale, by scale and by the logarithm of the mean (in 256ths) in steps of an eighth."""
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
    """The state between tensors: tables, the mean magnitude, and normal equations by kernel and position."""

    def __init__(self) -> None:
        """Start before the first tensor."""
        self.tables = Tables(_prior())
        self.level = _FIRST
        self.equations: dict[tuple[int, int], tuple[np.ndarray, int]] = {}


def code_weights(
    coder: Coder,
    memory: WeightMemory,
    shape: Sequence[int],
    values: Int8[np.ndarray, "*axes"] | None = None,
    on_paths: bool = False,
) -> Int8[np.ndarray, "*axes"]:
    """Write or read the codes of one tensor.

    Args:
        coder: writes or reads.
        memory: the state after the tensors before; it is updated.
        shape: `(out, in, *kernel)`; a tensor with one axis counts as one column.
        values: the int8 codes to write, of this shape; None for reading.
        on_paths: whether the codes follow paths along the first axis; then the shape is `(in, out, *kernel)`.

    Returns:
        The codes, int8, of this shape.

    Raises:
        Altered: the stream holds codes beyond int8.
    """
    layout = Layout.of(shape, alike=on_paths)
    known = None if values is None else layout.by_position(values)
    tensor = _Tensor(memory, np.zeros(layout.shape, np.int8))
    for phase, first, rows in layout.blocks():
        at, part, near = layout.phases[phase]
        if first:
            tensor.begin(phase, near, part)
            if on_paths and layout.starts_paths(phase):
                tensor.states = np.zeros((layout.rows[phase], part.stop - part.start), np.int64)
        tensor.block(coder, None if known is None else known[at, rows, part], at, rows)
        if rows.stop == layout.shape[1]:
            tensor.end()
    memory.level = tensor.level()
    return np.ascontiguousarray(tensor.codes.transpose(1, 2, 0)).reshape(shape)


class _Tensor:
    """One tensor while it is coded: sums and counts of its magnitudes, and its codes so far, `[position, out, in]`."""

    def __init__(self, memory: WeightMemory, codes: Int8[np.ndarray, "position out column"]) -> None:
        self.memory, self.codes = memory, codes
        out, columns = codes.shape[1:]
        self.row, self.row_n = np.zeros(out, np.int64), np.zeros(out, np.int64)
        self.column, self.column_n = np.zeros(columns, np.int64), np.zeros(columns, np.int64)
        self.kernel = np.zeros((out, columns), np.int64)
        self.whole, self.whole_n = 2 * memory.level, 2
        self.states: np.ndarray | None = None  # [row of a block, column], where codes follow paths

    def level(self) -> int:
        """The mean magnitude so far, in 256ths, at least 1."""
        return max(self.whole // self.whole_n, 1)

    def begin(self, phase: int, near: list[int], part: slice) -> None:
        """Begin a phase: a position, or a range of columns."""
        self.phase, self.near, self.part = phase, near, part
        width = part.stop - part.start
        self.position, self.position_n = 0, 0
        self.both, self.both_n = np.zeros(width, np.int64), 0
        self.sums, self.n, self.solved = np.zeros((len(near), len(near) + 1)), 0, 0
        self.mean = np.zeros(len(near))
        if near:
            sums, n = self.memory.equations.get((len(self.codes), phase), (self.sums, 0))
            keep = min(n, _CARRIED)
            self.sums, self.n = _rescale(sums, keep, n), keep

    def end(self) -> None:
        """End a phase: the next tensor with this kernel starts from its normal equations."""
        if self.near:
            self.memory.equations[len(self.codes), self.phase] = (self.sums, self.n)

    def block(self, coder: Coder, values: np.ndarray | None, at: int, rows: slice) -> None:
        """Write or read a block of rows of the position `at`, and update all sums by it."""
        lg, level = _logarithms(), self.level()
        row = (_ONE * self.row[rows] + _ROW * level) // (self.row_n[rows] + _ROW)
        column = (_ONE * self.column[self.part] + _COLUMN * level) // (self.column_n[self.part] + _COLUMN)
        position = (_ONE * self.position + _POSITION * level) // (self.position_n + _POSITION)
        both = (_ONE * self.both + _BOTH * (column * position // level)) // (self.both_n + _BOTH)
        both = np.minimum(both, _LARGEST)
        unit = lg[level]
        by_row, by_column, by_position = lg[row], lg[column] - unit, lg[position] - unit
        columnwise = _W_COLUMN * by_column + _W_POSITION * by_position
        columnwise += _W_BOTH * (lg[both] - unit - by_column - by_position)
        scale = 16 * by_row[:, None] + columnwise
        spread = by_row[:, None] + by_column
        mean, inputs = None, None
        if self.near:
            base = row[:, None] * ((column << 8) // level) >> 8
            kernel = (_ONE * self.kernel[rows, self.part] + _KERNEL * base) // (self.phase + _KERNEL)
            scale += _W_KERNEL * (lg[np.minimum(kernel, _LARGEST)] - spread)
            inputs = self.codes[self.near, rows].reshape(len(self.near), -1).astype(np.float64)
            mean = (self._weights() @ inputs).astype(np.int64)
        index = np.clip((_PER_OCTAVE * (scale.ravel() >> 4) + 128 >> 8) - 8 * _PER_OCTAVE + _UNIT_SCALE, 0, _SCALES - 1)
        state = None if self.states is None else self.states[: len(row)]
        codes = self._code(coder, index, mean, state, None if values is None else values.ravel().astype(np.int64))
        self.codes[at, rows, self.part] = codes.reshape(scale.shape)
        if inputs is not None:
            self._learn(inputs, codes, spread.ravel())
        self._count(np.abs(codes).reshape(scale.shape), rows)

    def _code(
        self,
        coder: Coder,
        index: Int64[np.ndarray, " n"],
        mean: Int64[np.ndarray, " n"] | None,
        state: Int64[np.ndarray, "rows columns"] | None,
        values: Int64[np.ndarray, " n"] | None,
    ) -> Int64[np.ndarray, " n"]:
        """Write or read the codes of a block, from the classes of their scales, their means and their states."""
        tables, context, sign, kind = self.memory.tables, index * (len(_RATIOS) + 1), 1, None
        if state is not None:
            kind = CLASS[state].ravel()
            context = context + _SET * (1 + kind)
        if mean is not None:
            sign = np.where(mean < 0, -1, 1)
            context = context + _ratio_classes()[index, _logarithms()[np.minimum(np.abs(mean), _LARGEST)] >> 5]
        known = None if values is None else (values if kind is None else index_of(values, kind)) * sign
        token = coder.symbols(tables, context, None if known is None else np.clip(known, -_LIMIT, _LIMIT) + _LIMIT)
        tables.add(context, token)
        value = token - _LIMIT
        far = np.flatnonzero(np.abs(value) == _LIMIT)
        if len(far):
            value[far] = _escapes(coder, tables, index[far], np.sign(value[far]), None if known is None else known[far])
        value = value * sign
        if state is None or kind is None:
            return _check_bytes(value)
        state[:] = NEXT[state, value.reshape(state.shape) & 1]
        return _check_bytes(code_of(value, kind))

    def _weights(self) -> Float64[np.ndarray, " neighbours"]:
        """Least-squares weights of the neighbours in 256ths, solved again whenever there is an eighth more data."""
        if 8 * self.n > 9 * self.solved or not self.solved:
            sums = self.sums.astype(np.int64).tolist()
            for i, line in enumerate(sums):
                line[i] += _RIDGE << 8
            self.mean = np.array(solve([line[:-1] for line in sums], [line[-1] for line in sums]), np.float64)
            self.solved = max(self.n, 1)
        return self.mean

    def _learn(
        self, inputs: Float64[np.ndarray, "neighbours n"], codes: Int64[np.ndarray, " n"], spread: Int64[np.ndarray, " n"]
    ) -> None:
        """Add a block to the normal equations."""
        weight = np.left_shift(1, 2 * np.clip(12 - (spread >> 8), 0, 6))
        self.sums += (inputs * weight) @ np.vstack([inputs, codes]).T
        self.n += len(codes)

    def _count(self, magnitude: Int64[np.ndarray, "rows columns"], rows: slice) -> None:
        """Add a block to the sums of magnitudes."""
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


def _rescale(sums: Float64[np.ndarray, "neighbours columns"], keep: int, n: int) -> Float64[np.ndarray, "neighbours columns"]:
    """Normal equations of `n` samples with the weight of `keep` samples."""
    return (sums.astype(np.int64) // max(n, 1) * keep).astype(np.float64)


def _escapes(
    coder: Coder,
    tables: Tables,
    index: Int64[np.ndarray, " n"],
    sign: Int64[np.ndarray, " n"],
    values: Int64[np.ndarray, " n"] | None,
) -> Int64[np.ndarray, " n"]:
    """Write or read values of magnitude 12 or more: the bit length of the magnitude minus 12, then its lower bits."""
    context = len(_UPPER) * _SET + np.minimum(index >> 2, _ESCAPES - 1)
    above = None if values is None else np.abs(values) - _LIMIT
    length = coder.symbols(tables, context, None if above is None else _lengths()[above])
    tables.add(context, length)
    if (length > 7).any():
        raise Altered("a weight code lies outside of a byte; the file was changed.")
    bits = np.maximum(length - 1, 0)
    top = np.left_shift(1, bits) * (length > 0)
    low = coder.uniform(bits, None if above is None else above - top)
    return (top + low + _LIMIT) * sign


def _check_bytes(value: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Return the values if they fit int8.

    Raises:
        Altered: one doesn't.
    """
    if (value < -128).any() or (value > 127).any():
        raise Altered("a weight code lies outside of a byte; the file was changed.")
    return value


@cache
def _lengths() -> Int64[np.ndarray, " 256"]:
    """The bit lengths of 0 to 255."""
    return np.array([value.bit_length() for value in range(256)])
