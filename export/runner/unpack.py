"""Unpacks a dyncompress container (small.dync) into its ONNX file, to the byte, on numpy alone.

    python unpack.py small.dync small.onnx

`runner.py`, in the same directory, imports it. It is generated from `dyncompress/coding` by
`python -m tools.assemble_unpacker`: change the code there. It is a single file, and therefore long.
"""

from __future__ import annotations

import hashlib
import itertools
import lzma
import os
import string
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import isqrt, prod
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np


def pairwise(values):
    """Each value with the next one, as itertools has it from Python 3.10 on."""
    return zip(values, values[1:])  # noqa: RUF007


class InvalidRequest(Exception):  # noqa: N818
    """The file isn't a container, or one of a newer version."""


class Altered(Exception):  # noqa: N818
    """The container was cut off or changed."""


# ---------------------------------------------------------------- tables
BITS = 16
WHOLE = 1 << BITS
_STEP = 32  # added to the count of a symbol each time it occurs
_MANY, _NARROW = 1024, 64  # from so many symbols, or at a larger width, bisection is faster than comparing with all
_FRESH = 96  # symbols that may be pending before the frequencies are updated


class Tables:
    """Frequencies of symbols `[contexts, width]` that adapt to the coded symbols; each row sums to 2^16.

    A frequency is 1 + counts * (2^16 - width) // total, and the remainder of the row is added to its largest count. Frequencies
    are updated when the pending symbols number at least 96 and 1/64 of all earlier ones. This rule is deterministic and the same
    for the writer and the reader.
    """

    def __init__(self, prior: np.ndarray) -> None:
        """Start from prior counts `[contexts, width]` in 32nds of a symbol; each row has a positive sum."""
        self.counts = np.array(prior, np.int64)
        self.width = self.counts.shape[1]
        self.frequency = np.empty(self.counts.shape, np.int32)
        self.span = 1 << (self.width - 1).bit_length()
        self.start = np.full(
            (len(self.counts), self.span), 2 * WHOLE, np.int32
        )  # first slot of each symbol; columns beyond the width lie above all slots
        self.start[:, 0] = 0
        self._queue: list[np.ndarray] = []
        self._pending = self._counted = 0
        self._update(np.arange(len(self.counts)))

    def add(self, contexts: np.ndarray, symbols: np.ndarray) -> None:
        """Count symbols `[n]` that were coded in `contexts` `[n]`."""
        self._queue.append(contexts * self.width + symbols)
        self._pending += len(symbols)
        if self._pending >= max(_FRESH, self._counted >> 6):
            counts = np.bincount(np.concatenate(self._queue), minlength=self.counts.size).reshape(self.counts.shape)
            self.counts += _STEP * counts
            self._counted += self._pending
            self._queue, self._pending = [], 0
            self._update(np.flatnonzero(counts.any(1)))

    def find(self, contexts: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """The symbols `[n]` to which slots `[n]` (numbers below 2^16) belong in the rows `contexts` `[n]`.

        A few slots are compared with all starts at once; for many, bisection is faster.
        """
        slot = slots.astype(np.int32)
        if len(slot) < _MANY and self.span <= _NARROW:
            below = self.start.take(contexts, 0) <= slot[:, None]
            return (below.view(np.uint8) @ np.ones(self.span, np.uint8)).astype(np.int64) - 1
        start, first = self.start.ravel(), contexts * self.span
        at, step = first, self.span >> 1
        while step:
            at = at + step * (start[at + step] <= slot)
            step >>= 1
        return at - first

    def _update(self, rows: np.ndarray) -> None:
        """Compute the frequencies of these rows from their counts."""
        counts = self.counts[rows]
        frequency = 1 + counts * (WHOLE - self.width) // counts.sum(1, keepdims=True)
        frequency[np.arange(len(rows)), counts.argmax(1)] += WHOLE - frequency.sum(1)
        self.frequency[rows] = frequency
        self.start[rows, 1 : self.width] = np.cumsum(frequency[:, :-1], 1)


# ---------------------------------------------------------------- rans
LOW = 1 << 24  # the smallest state of a lane; its lower 24 bits hold a part of the tail
LANE_BYTES, TAIL_BYTES = 5, 3
_WORD = 16
_MASK = (1 << BITS) - 1


class Reader:
    """Reads the stream of a `Writer`, by the same calls in the same order, without the values."""

    def __init__(self, stream: bytes, lanes: int) -> None:
        """Start at the first word of a stream with so many lanes.

        Raises:
            Altered: the stream is too short for its lanes, or ends within a word.
        """
        head = LANE_BYTES * lanes
        if len(stream) < head or (len(stream) - head) % 2:
            raise Altered(
                f"the coded stream has {len(stream)} bytes, which doesn't fit {lanes} lanes; the file was cut or changed."
            )
        spread = np.frombuffer(stream, np.uint8, head).reshape(lanes, LANE_BYTES).astype(np.int64)
        self._state = (spread << np.arange(0, 8 * LANE_BYTES, 8)).sum(1)
        self._words = np.frombuffer(stream, "<u2", offset=head).astype(np.int64)
        self._at = 0

    def symbols(
        self, tables: Tables, contexts: np.ndarray, values: np.ndarray | None = None
    ) -> np.ndarray:
        """Read one symbol `[n]` for each of `contexts` `[n]`, the rows of `tables`; `values` are ignored."""
        lanes, out = len(self._state), np.empty(len(contexts), np.int64)
        frequency, start = tables.frequency.ravel(), tables.start.ravel()
        for first in range(0, len(contexts), lanes):
            row = contexts[first : first + lanes]
            x = self._state[: len(row)]
            slot = x & _MASK
            symbol = tables.find(row, slot)
            out[first : first + lanes] = symbol
            x >>= BITS
            x *= frequency[row * tables.width + symbol]
            x += slot - start[row * tables.span + symbol]
            self._refill(x)
        return out

    def uniform(
        self, bits: np.ndarray, values: np.ndarray | None = None
    ) -> np.ndarray:
        """Read numbers `[n]` below `2^bits`, `bits` `[n]`; `values` are ignored."""
        lanes, out = len(self._state), np.empty(len(bits), np.int64)
        for first in range(0, len(bits), lanes):
            shift = BITS - bits[first : first + lanes]
            x = self._state[: len(shift)]
            slot = x & _MASK
            out[first : first + lanes] = slot >> shift
            x[:] = ((x >> BITS) << shift) + (slot & ((1 << shift) - 1))
            self._refill(x)
        return out

    def _refill(self, x: np.ndarray) -> None:
        """Read a word into every lane that is too small."""
        low = np.flatnonzero(x < LOW)
        words = self._words[self._at : self._at + len(low)]
        self._at += len(low)
        if len(words) < len(low):
            raise Altered("the coded stream ends before its last symbol; the file was cut or changed.")
        x[low] = (x[low] << _WORD) | words

    def finish(self) -> bytes:
        """The tail with which the writer's lanes began.

        Raises:
            Altered: words are left over, or a lane ends at an impossible number.
        """
        rest = self._state - LOW
        if self._at != len(self._words) or (rest < 0).any() or (rest >= LOW).any():
            raise Altered("the coded stream doesn't end where its writer began; the file was changed.")
        return ((rest[:, None] >> np.array([0, 8, 16])) & 0xFF).astype(np.uint8).tobytes()


# ---------------------------------------------------------------- layout
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

    def by_position(self, tensor: np.ndarray) -> np.ndarray:
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


# ---------------------------------------------------------------- trellis
STATES = 8
_CHECKS = (0o13, 0o04)  # Ungerboeck's parity checks of 8 states


def _steps() -> tuple[np.ndarray, np.ndarray]:
    """The next state `[states, parity]` and class `[states]` of every state, from the systematic feedback form of the code."""
    memory = STATES.bit_length() - 1
    after, kind = np.zeros((STATES, 2), np.int64), np.arange(STATES) & 1
    for state in range(STATES):
        for parity in (0, 1):
            fed = _CHECKS[0] * (state & 1) ^ _CHECKS[1] * parity
            after[state, parity] = (state ^ fed) >> 1 & (1 << memory) - 1
    return after, kind


NEXT, CLASS = _steps()


def index_of(code: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """The indices k of codes in states of class `kind` (0 or 1); the codes must be allowed there.

    Example:
        >>> index_of(np.array([4, -3]), np.array([0, 1])).tolist()
        [2, -2]
    """
    return np.sign(code) * (np.abs(code) + kind >> 1)


def code_of(index: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """The codes of indices in states of class `kind`: the inverse of `index_of`."""
    return 2 * index - kind * np.sign(index)


# ---------------------------------------------------------------- weights
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
def _logarithms() -> np.ndarray:
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
def _prior() -> np.ndarray:
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
def _ratio_classes() -> np.ndarray:
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
    rows = [[*row, value] for row, value in zip(matrix, right)]
    before = 1
    for k in range(n):
        pivot = rows[k][k]
        for i in range(n):
            if i != k:
                factor = rows[i][k]
                rows[i] = [(pivot * a - factor * b) // before for a, b in zip(rows[i], rows[k])]
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
    values: np.ndarray | None = None,
    on_paths: bool = False,
) -> np.ndarray:
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

    def __init__(self, memory: WeightMemory, codes: np.ndarray) -> None:
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
        index: np.ndarray,
        mean: np.ndarray | None,
        state: np.ndarray | None,
        values: np.ndarray | None,
    ) -> np.ndarray:
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

    def _weights(self) -> np.ndarray:
        """Least-squares weights of the neighbours in 256ths, solved again whenever there is an eighth more data."""
        if 8 * self.n > 9 * self.solved or not self.solved:
            sums = self.sums.astype(np.int64).tolist()
            for i, line in enumerate(sums):
                line[i] += _RIDGE << 8
            self.mean = np.array(solve([line[:-1] for line in sums], [line[-1] for line in sums]), np.float64)
            self.solved = max(self.n, 1)
        return self.mean

    def _learn(
        self, inputs: np.ndarray, codes: np.ndarray, spread: np.ndarray
    ) -> None:
        """Add a block to the normal equations."""
        weight = np.left_shift(1, 2 * np.clip(12 - (spread >> 8), 0, 6))
        self.sums += (inputs * weight) @ np.vstack([inputs, codes]).T
        self.n += len(codes)

    def _count(self, magnitude: np.ndarray, rows: slice) -> None:
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


def _rescale(sums: np.ndarray, keep: int, n: int) -> np.ndarray:
    """Normal equations of `n` samples with the weight of `keep` samples."""
    return (sums.astype(np.int64) // max(n, 1) * keep).astype(np.float64)


def _escapes(
    coder: Coder,
    tables: Tables,
    index: np.ndarray,
    sign: np.ndarray,
    values: np.ndarray | None,
) -> np.ndarray:
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


def _check_bytes(value: np.ndarray) -> np.ndarray:
    """Return the values if they fit int8.

    Raises:
        Altered: one doesn't.
    """
    if (value < -128).any() or (value > 127).any():
        raise Altered("a weight code lies outside of a byte; the file was changed.")
    return value


@cache
def _lengths() -> np.ndarray:
    """The bit lengths of 0 to 255."""
    return np.array([value.bit_length() for value in range(256)])


# ---------------------------------------------------------------- numbers
_LENGTHS = 35  # possible bit lengths of a magnitude, 0 to 34
_WRITTEN_OUT = 2 * _LENGTHS  # the token of a number that is written in full
_MARK = 1 << 40  # added to such a number
_SMALL = 4  # smaller arrays have no median; their numbers are relative to the last number before
_MEDIAN, _VALUE = 0, 1


@dataclass(frozen=True)
class Kind:
    """A type of numbers: its size in bytes, and whether it is a float or a signed integer."""

    size: int
    floating: bool = False
    signed: bool = False

    @property
    def dtype(self) -> str:
        """The numpy dtype of the numbers as integers; floats are viewed as unsigned integers."""
        return f"<{'i' if self.signed else 'u'}{self.size}"


class Bits:
    """A string of bits that holds numbers of different widths, most significant bit first."""

    def __init__(self, content: bytes = b"") -> None:
        """Read from `content`, or start empty and write."""
        self._content = content
        self._at = 0
        self._written: list[np.ndarray] = []

    def write(self, values: np.ndarray, widths: np.ndarray) -> None:
        """Append numbers `[n]` of `widths` `[n]` bits."""
        owner, shift = _bit_positions(widths)
        self._written.append((values[owner] >> shift & 1).astype(np.uint8))

    def read(self, widths: np.ndarray) -> np.ndarray:
        """Read the next numbers, of `widths` `[n]` bits.

        Raises:
            Altered: fewer bits are left.
        """
        owner, shift = _bit_positions(widths)
        end = self._at + len(owner)
        if end > 8 * len(self._content):
            raise Altered("the file ends before its last number; it was cut or changed.")
        window = np.frombuffer(self._content, np.uint8)[self._at >> 3 : (end + 7) >> 3]
        bits = np.unpackbits(window)[self._at & 7 :][: len(owner)]
        self._at = end
        values = np.zeros(len(widths), np.int64)
        np.add.at(values, owner, bits.astype(np.int64) << shift)
        return values

    def bytes(self) -> bytes:
        """All bits that were written, padded with zeros to whole bytes."""
        return np.packbits(np.concatenate([np.zeros(0, np.uint8), *self._written])).tobytes()


def _bit_positions(widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every bit, the index of the number that it belongs to and its position in that number."""
    owner = np.repeat(np.arange(len(widths)), widths)
    return owner, (np.cumsum(widths)[owner] - 1) - np.arange(len(owner))


class NumberMemory:
    """The state between arrays: tables of lengths and shifts, and the last number of each group of arrays."""

    def __init__(self) -> None:
        """Start before the first array."""
        self.lengths = Tables(np.full((8, 2 * _LENGTHS + 1), 2))
        self.shifts = Tables(np.full((2, 24), 4))
        self.last: dict[int, int] = {}


def code_numbers(
    coder: Coder, memory: NumberMemory, kind: Kind, count: int, values: np.ndarray | None = None
) -> np.ndarray:
    """Write or read the shift of an array and the bit lengths of its numbers.

    Args:
        coder: writes or reads.
        memory: the state after the arrays before; it is updated.
        kind: type of the numbers.
        count: number of numbers.
        values: what `relative_numbers` returned for the array; None for reading.

    Returns:
        `[shift, length (+ 35 where negative), ...]`, from which `number_bytes` restores the numbers.
    """
    group = _group(kind, count)
    shift = np.zeros(1, np.int64)
    if kind.floating:
        here = np.array([group & 1])
        shift = coder.symbols(memory.shifts, here, None if values is None else values[:1])
        memory.shifts.add(here, shift)
    contexts = np.full(count + _leads(kind, count), 2 * group + _VALUE)
    contexts[: _leads(kind, count)] = 2 * group + _MEDIAN
    tokens = None if values is None else _tokens(values[1:])
    coded = [shift]
    for first in range(0, len(contexts), 64):
        part = contexts[first : first + 64]
        coded.append(coder.symbols(memory.lengths, part, None if tokens is None else tokens[first : first + 64]))
        memory.lengths.add(part, coded[-1])
    return np.concatenate(coded)


def number_bytes(bits: Bits, memory: NumberMemory, kind: Kind, coded: np.ndarray) -> bytes:
    """The bytes of an array, from its shift and lengths and from its low bits; call it in the order of reading.

    Args:
        bits: the low bits of all arrays.
        memory: the state after the arrays before; it is updated.
        kind: type of the numbers.
        coded: what `code_numbers` returned.

    Raises:
        Altered: the bits end too early, or a number is beyond its type.
    """
    shift, tokens = int(coded[0]), coded[1:]
    widths = _widths(kind, tokens)
    low, out = bits.read(widths), tokens == _WRITTEN_OUT
    whole = np.where(tokens % _LENGTHS > 0, np.left_shift(1, widths) + low, 0)
    whole = np.where(tokens >= _LENGTHS, -whole, whole)
    leads = 1 if kind.floating and len(whole) > _SMALL else 0
    count = len(whole) - leads
    group = _group(kind, count)
    before = memory.last.get(group, 0) >> shift
    if leads:
        lead = before + int(whole[0])
        memory.last[group] = lead << shift
        whole = whole[1:] + lead
    elif count < _SMALL:
        whole = whole + before
        memory.last[group] = int(whole[-1]) << shift if count else before << shift
    top = 1 << (8 * kind.size - 1)
    if kind.floating:
        negative = whole < 0
        magnitude = np.where(negative, -1 - whole, whole) << shift
        out = out[leads:]
        if (magnitude[~out] >= top).any():
            raise Altered("a number is beyond its type; the file was changed.")
        whole = np.where(out, low[leads:], magnitude + np.where(negative, top, 0))
    elif kind.size < 8 and ((whole < (-top if kind.signed else 0)).any() or (whole >= (top if kind.signed else 2 * top)).any()):
        raise Altered("a number is beyond its type; the file was changed.")
    return whole.astype(kind.dtype).tobytes()


def _group(kind: Kind, count: int) -> int:
    """The index of the group of arrays that share tables and the last number: by type, and by size."""
    return (0 if kind.floating else 2) + (count < _SMALL)


def _leads(kind: Kind, count: int) -> int:
    """1 where the median precedes the numbers, else 0."""
    return int(kind.floating and count >= _SMALL)


def _tokens(signed: np.ndarray) -> np.ndarray:
    """The bit lengths of numbers with their signs, or the token of numbers that are written in full."""
    return np.where(signed >= _MARK, _WRITTEN_OUT, _bit_lengths(np.abs(signed)) + _LENGTHS * (signed < 0))


def _widths(kind: Kind, tokens: np.ndarray) -> np.ndarray:
    """The number of low bits that follow each token."""
    return np.where(tokens == _WRITTEN_OUT, 8 * kind.size, np.maximum(tokens % _LENGTHS - 1, 0))


def _bit_lengths(magnitude: np.ndarray) -> np.ndarray:
    """The bit lengths of non-negative integers; that of 0 is 0."""
    return np.frexp(magnitude.astype(np.float64))[1].astype(np.int64)  # exact: below 2^53


# ---------------------------------------------------------------- skeleton
Field = tuple[int, "int | bytes"]  # key (number << 3 | wire type), value
_GRAPH, _NODE, _INITIALIZER, _INPUT, _OUTPUT = 7 << 3 | 2, 1 << 3 | 2, 5 << 3 | 2, 11 << 3 | 2, 12 << 3 | 2
_DIMS, _TYPE, _NAME, _RAW = 1 << 3, 2 << 3, 8 << 3 | 2, 9 << 3 | 2
_READS, _WRITES, _VALUE_NAME = 1 << 3 | 2, 2 << 3 | 2, 1 << 3 | 2
_NEXT, _NONE, _RECENT = 0, 1, 2  # names of values that nodes read: the next initializer, the empty name, 2 + recency
_FIXED = {1: 8, 5: 4}


@dataclass(frozen=True)
class Form:
    """Type (ONNX's number) and shape of an initializer whose data were removed."""

    kind: int
    shape: tuple[int, ...]


def varint(value: int) -> bytes:
    """The bytes of a non-negative integer in protobuf's variable-length encoding.

    Example:
        >>> varint(300).hex()
        'ac02'
    """
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


class Source:
    """Reads bytes from the front; it raises ValueError where they end too early."""

    def __init__(self, content: bytes) -> None:
        """Start at the first byte."""
        self.content, self.at = content, 0

    def number(self) -> int:
        """Read a variable-length integer of at most 64 bits."""
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def take(self, size: int) -> bytes:
        """Read the next `size` bytes."""
        part = self.content[self.at : self.at + size]
        if size < 0 or len(part) < size:
            raise ValueError("it ends too soon")
        self.at += size
        return part

    def block(self) -> bytes:
        """Read a length and that many bytes."""
        return self.take(self.number())

    def field(self) -> Field:
        """Read a protobuf field."""
        key = self.number()
        if key & 7 == 0:
            return key, self.number()
        if key & 7 == 2:
            return key, self.block()
        if key & 7 in _FIXED:
            return key, self.take(_FIXED[key & 7])
        raise ValueError(f"wire type {key & 7}")

    def left(self) -> bool:
        """Whether bytes are left."""
        return self.at < len(self.content)


def fields(message: bytes) -> list[Field]:
    """The fields of a protobuf message."""
    source, read = Source(message), []
    while source.left():
        read.append(source.field())
    return read


def message_of(some: Iterable[Field]) -> bytes:
    """The protobuf message of these fields."""
    out = bytearray()
    for key, value in some:
        out += varint(key)
        out += varint(value) if isinstance(value, int) else (varint(len(value)) if key & 7 == 2 else b"") + value
    return bytes(out)


class _Names:
    """The names of values: in the order of their last mention, of initializers that no node has read yet, and of new values."""

    def __init__(self, others: Sequence[Field]) -> None:
        """Start with the graph's inputs; the names of its outputs aren't used for other values."""
        named = [(key, _name(value)) for key, value in others if key in (_INPUT, _OUTPUT) and isinstance(value, bytes)]
        self.mentioned = [name for key, name in named if key == _INPUT]  # the latest is last
        self.unread: list[bytes] = []  # the next is last
        self._sequence = _sequence(frozenset(name for _, name in named))
        self._next = next(self._sequence)

    def define(self, name: bytes) -> bytes:
        """The encoding of a new name: 0 for the next of the sequence, else its length + 1 and the name."""
        if name == self._next:
            self._next = next(self._sequence)
            return varint(0)
        return varint(1 + len(name)) + name

    def decode_definition(self, source: Source) -> bytes:
        """The new name whose encoding `define` returned."""
        size = source.number()
        if size:
            return source.take(size - 1)
        name, self._next = self._next, next(self._sequence)
        return name

    def read(self, name: bytes) -> bytes:
        """The encoding of the name of a value that a node reads."""
        if not name:
            return varint(_NONE)
        if self.unread and name == self.unread[-1]:
            self.mentioned.append(self.unread.pop())
            return varint(_NEXT)
        for back, known in enumerate(itertools.chain(reversed(self.mentioned), reversed(self.unread))):
            if known == name:
                return varint(_RECENT + back) + self._again(back)
        raise ValueError("a value from nowhere")

    def decode_read(self, source: Source) -> bytes:
        """The name whose encoding `read` returned."""
        token = source.number()
        if token == _NONE:
            return b""
        if token == _NEXT:
            self.mentioned.append(self.unread.pop())
        else:
            self._again(token - _RECENT)
        return self.mentioned[-1]

    def _again(self, back: int) -> bytes:
        """Make a value the latest; IndexError where there is none."""
        known = len(self.mentioned)
        self.mentioned.append(self.mentioned.pop(known - 1 - back) if back < known else self.unread.pop(known - 1 - back))
        return b""


def _sequence(used: frozenset[bytes]) -> Iterator[bytes]:
    """a, b, ..., Z, aa, ab, ... without the names in `used`."""
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_letters, repeat=length):
            if (name := "".join(letters).encode()) not in used:
                yield name


def _name(message: bytes) -> bytes:
    """The name in a ValueInfoProto, its first field."""
    key, value = Source(message).field()
    if key != _VALUE_NAME or not isinstance(value, bytes):
        raise ValueError("a value without a name")
    return value


@dataclass(frozen=True)
class Skeleton:
    """A parsed skeleton: protobuf fields, with None where the data of the next initializer belong."""

    model: list[Field | list[tuple[int, int | bytes | list[Field | None]]]]
    forms: list[Form]


def parse_skeleton(skeleton: bytes, limit: int) -> Skeleton:
    """Parse a skeleton whose file has at most `limit` bytes.

    Raises:
        ValueError, IndexError: the bytes aren't a skeleton, or its file is longer.
    """
    source, model, forms = Source(skeleton), [], []
    while source.left():
        at = source.at
        if source.number() == _GRAPH:
            model.append(_graph(source, forms, limit))
        else:
            source.at = at
            model.append(source.field())
    return Skeleton(model, forms)


def _graph(source: Source, forms: list[Form], limit: int) -> list:
    """The fields of a graph; the forms of its initializers are appended to the list."""
    others = fields(source.block())
    names = _Names(others)
    tensors: list = []
    for _ in range(source.number()):
        form = source.number()
        if form:
            kind, dims = source.number(), [source.number() for _ in range((form >> 1) - 1)]
            forms.append(Form(kind, tuple(dims)))
            names.unread.append(names.decode_definition(source))
            rest = fields(source.block()) if form & 1 else []
            tensors.append([*((_DIMS, size) for size in dims), (_TYPE, kind), (_NAME, names.unread[-1]), None, *rest])
        else:
            tensors.append(fields(source.block()))
            names.unread.append(next((value for key, value in tensors[-1] if key == _NAME), b""))
    names.unread.reverse()
    nodes, kinds = [], []
    for _ in range(source.number()):
        known = source.number()
        if not known:
            kinds.append((source.number(), source.number(), fields(source.block())))
        reads, writes, rest = kinds[known - 1]
        node = [(_READS, names.decode_read(source)) for _ in range(reads)]
        for _ in range(writes):
            name = names.decode_definition(source)
            names.mentioned.extend([name] if name else [])
            node.append((_WRITES, name))
        nodes.append((_NODE, message_of([*node, *rest])))
        limit -= len(nodes[-1][1])
        if limit < 0:
            raise ValueError("nodes longer than the file")
    return sorted([*nodes, *((_INITIALIZER, tensor) for tensor in tensors), *others], key=lambda field: field[0])


def fill_skeleton(skeleton: Skeleton, data: Iterable[bytes]) -> bytes:
    """The ONNX file of a skeleton and the data of its initializers, in the order of its forms."""
    remaining = iter(data)
    out = []
    for field in skeleton.model:
        if isinstance(field, list):
            graph = []
            for key, value in field:
                if isinstance(value, list):
                    value = message_of((_RAW, next(remaining)) if inner is None else inner for inner in value)
                graph.append((key, value))
            out.append((_GRAPH, message_of(graph)))
        else:
            out.append(field)
    return message_of(out)


# ---------------------------------------------------------------- tensors
# by ONNX's type number; types of half a byte have size 0
KINDS = {
    1: Kind(4, floating=True),
    2: Kind(1),
    3: Kind(1, signed=True),
    4: Kind(2),
    5: Kind(2, signed=True),
    6: Kind(4, signed=True),
    7: Kind(8, signed=True),
    9: Kind(1),
    10: Kind(2, floating=True),
    11: Kind(8),
    12: Kind(4),
    13: Kind(8),
    16: Kind(2, floating=True),
    17: Kind(1),
    18: Kind(1),
    19: Kind(1),
    20: Kind(1),
    21: Kind(0),
    22: Kind(0, signed=True),
}
_INT8, _INT4, _UINT4 = 3, 22, 21
_AS_IS, _WEIGHTS, _NUMBERS, _BYTES = range(4)  # tags; 3 + s: weights with s raw low bits
_PATH_TAGS = (8, 9)  # codes on paths along the first axis, and along the second
_TAGS = 4 + 4 + 2
_FIRST_BYTES = 64  # coded with the initial table; each later part is a quarter of all before it
Finish = Callable[[Bits], bytes]


class TensorMemory:
    """The state between tensors: tables, and the memories of the models."""

    def __init__(self) -> None:
        """Start before the first tensor."""
        self.weights = WeightMemory()
        self.numbers = NumberMemory()
        self.decoded_numbers = NumberMemory()
        self.tags = Tables(np.full((len(KINDS) + 1, _TAGS), 8))
        self.bytes: dict[int, Tables] = {}


def size_of(form: Form) -> int:
    """The number of bytes of a tensor's data.

    Raises:
        Altered: the type is unknown.
    """
    if form.kind not in KINDS:
        raise Altered(f"an initializer has the unknown type {form.kind}; the file was changed.")
    size = KINDS[form.kind].size
    return size * prod(form.shape) if size else (prod(form.shape) + 1) // 2


def read_tensor(coder: Coder, memory: TensorMemory, form: Form) -> Finish:
    """Read the coded part of one tensor.

    Returns:
        A function that returns the tensor's bytes, given the raw bits of all tensors; call the functions in the order of reading.

    Raises:
        Altered: the tag doesn't fit the type or shape of the tensor.
    """
    kind, size = KINDS[form.kind], size_of(form)
    if not size:
        return lambda bits: b""
    tag = int(_tag(coder, memory, form, None)[0])
    if tag == _NUMBERS:
        if not kind.size:
            raise Altered("half bytes aren't numbers; the file was changed.")
        coded = code_numbers(coder, memory.numbers, kind, size // kind.size)
        return lambda bits: number_bytes(bits, memory.decoded_numbers, kind, coded)
    if tag == _BYTES:
        known = _bytes(coder, memory, kind.size or 1, size, None).tobytes()
        return lambda bits: known
    if tag == _AS_IS:
        return lambda bits: bits.read(np.full(size, 8)).astype(np.uint8).tobytes()
    if form.kind not in (_INT8, _INT4, _UINT4):
        raise Altered("an initializer of another type is coded as weights; the file was changed.")
    if tag in _PATH_TAGS:
        if form.kind != _INT8 or len(form.shape) < 2:
            raise Altered("codes of another type or shape are coded as paths; the file was changed.")
        first, second, *kernel = form.shape
        shape = (first, second, *kernel) if tag == _PATH_TAGS[0] else (second, first, *kernel)
        content = _paths_first(code_weights(coder, memory.weights, shape, on_paths=True), tag).tobytes()
        return lambda bits: content
    shift = _shift(tag)
    high = code_weights(coder, memory.weights, form.shape).ravel()
    return lambda bits: _data(form, _join(high, bits.read(np.full(high.size, shift)), shift))


def _tag(coder: Coder, memory: TensorMemory, form: Form, tag: np.ndarray | None) -> np.ndarray:
    """Write or read (None) the tag of a tensor."""
    context = np.array([list(KINDS).index(form.kind)])
    coded = coder.symbols(memory.tags, context, tag)
    memory.tags.add(context, coded)
    return coded


def _paths_first(codes: np.ndarray, tag: int) -> np.ndarray:
    """The codes with the axis of their paths first; applied twice, it returns the codes."""
    return codes if tag == _PATH_TAGS[0] else codes.swapaxes(0, 1)


def _shift(tag: int) -> int:
    """The number of raw low bits under a tag of weights."""
    return 0 if tag == _WEIGHTS else tag - _BYTES


def _join(high: np.ndarray, low: np.ndarray, shift: int) -> np.ndarray:
    """The inverse of `_split`.

    Raises:
        Altered: a code doesn't fit a byte.
    """
    whole = (high.astype(np.int64) << shift) + low - (1 << shift >> 1)
    if (whole < -128).any() or (whole > 127).any():
        raise Altered("a weight code lies outside of a byte; the file was changed.")
    return whole.astype(np.int8)


def _data(form: Form, codes: np.ndarray) -> bytes:
    """The inverse of `_codes`."""
    if form.kind == _INT8:
        return codes.tobytes()
    halves = (codes + 8 if form.kind == _UINT4 else codes).astype(np.uint8) & 15
    halves = np.append(halves, np.zeros(halves.size % 2, np.uint8)).reshape(-1, 2)
    return (halves[:, 0] | halves[:, 1] << 4).tobytes()


def _bytes(
    coder: Coder, memory: TensorMemory, planes: int, count: int, content: np.ndarray | None
) -> np.ndarray:
    """Write or read (None) bytes, each with the table of its position in a number of `planes` bytes."""
    tables = memory.bytes.setdefault(planes, Tables(np.full((planes, 256), 1)))
    out = np.empty(count, np.uint8)
    first = 0
    while first < count:
        stop = min(count, first + max(_FIRST_BYTES * planes, first >> 2))
        plane = np.arange(first, stop) % planes
        out[first:stop] = coder.symbols(tables, plane, None if content is None else content[first:stop].astype(np.int64))
        tables.add(plane, out[first:stop].astype(np.int64))
        first = stop
    return out


# ---------------------------------------------------------------- container
MAGIC, VERSION = b"DYNC", 2
LIMIT = 1 << 31  # largest size of an unpacked file in bytes, protobuf's own limit
_RATIO, _ALWAYS = 1024, 1 << 16
_DIGEST = 16
_HEAD = len(MAGIC) + 1 + _DIGEST
_STORED, _ZLIB, _LZMA = 0, 1, 2  # how the skeleton is compressed; lzma: 2 + lc
_WHOLE = 16  # added where the skeleton is the whole file
_READING = (ValueError, IndexError, KeyError, OverflowError, zlib.error, lzma.LZMAError, EOFError)


def unpack(packed: bytes, limit: int = LIMIT) -> bytes:
    """Restore the ONNX file from a container.

    Args:
        packed: the bytes that `pack` returned.
        limit: largest size of the file, in bytes.

    Returns:
        The bytes of the ONNX file, exactly as they were packed.

    Raises:
        InvalidRequest: the bytes aren't a container, have another version, or the file is above the limit.
        Altered: the container was cut or changed.
    """
    if not is_packed(packed):
        raise InvalidRequest(f"the {len(packed):,} bytes given are no dyncompress container (they don't begin with DYNC).")
    if len(packed) > len(MAGIC) and packed[len(MAGIC)] != VERSION:
        raise InvalidRequest(
            f"the container has version {packed[len(MAGIC)]}, this program reads {VERSION}; it was changed, or written by "
            "another version of the program: install that one."
        )
    try:
        content = _content(packed, limit)
    except _READING as error:
        raise Altered(f"the container can't be read ({error}); it was cut or changed: fetch it again.") from error
    if _digest(packed[_HEAD:], content) != packed[_HEAD - _DIGEST : _HEAD]:
        raise Altered("the container doesn't match its digest; it was changed: fetch it again.")
    return content


def _digest(body: bytes, content: bytes) -> bytes:
    """The digest of a container, from what follows it and from its file."""
    both = hashlib.sha256(body)
    both.update(content)
    return both.digest()[:_DIGEST]


def is_packed(content: bytes) -> bool:
    """Whether the bytes begin with the mark of a container."""
    return content[: len(MAGIC)] == MAGIC


def _content(packed: bytes, limit: int) -> bytes:
    """The file of a container, before the check of its digest."""
    source = Source(packed)
    source.take(_HEAD)
    length = source.number()
    if length > _ALWAYS + _RATIO * len(packed):
        raise ValueError(f"{len(packed):,} bytes can't hold the {length:,} that it declares")
    if length > limit:
        raise InvalidRequest(f"the container's file has {length:,} bytes, the limit is {limit:,}; raise the limit.")
    method, lanes = source.take(2)
    size = source.number()
    if size > 2 * length or lanes > 16:
        raise ValueError("its lengths contradict each other")
    skeleton = _decompress(source.block(), method & ~_WHOLE, size)
    reader, memory = Reader(source.block(), 1 << lanes), TensorMemory()
    rest = source.take(len(packed) - source.at)
    frame = None if method & _WHOLE else parse_skeleton(skeleton, length)
    forms = [] if frame is None else frame.forms
    if sum(size_of(form) for form in forms) > length:
        raise ValueError("its initializers are larger than its file")
    readers = [read_tensor(reader, memory, form) for form in forms]
    bits = Bits(reader.finish() + rest)
    data = [read_bits(bits) for read_bits in readers]
    return skeleton if frame is None else fill_skeleton(frame, data)


def _decompress(small: bytes, method: int, size: int) -> bytes:
    """The inverse of `_compress`; `size` is the number of bytes that result."""
    if method == _STORED:
        content = small
    elif method == _ZLIB:
        content = zlib.decompressobj(wbits=-15).decompress(small, size + 1)
    elif method < _LZMA + 5:
        filters = _filters(method - _LZMA, size)
        content = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters).decompress(small, max_length=size + 1)
    else:
        raise ValueError(f"unknown method {method}")
    if len(content) != size:
        raise ValueError(f"a skeleton of {len(content)} bytes where {size} were declared")
    return content


def _filters(context: int, size: int) -> list[dict[str, int]]:
    """The filters of lzma for `size` bytes, with `context` bits of the byte before."""
    dictionary = min(max(1 << size.bit_length(), 1 << 12), 1 << 26)
    return [{"id": lzma.FILTER_LZMA1, "lc": context, "lp": 0, "pb": 0, "dict_size": dictionary, "nice_len": 273, "depth": 512}]


def main(arguments: list[str]) -> int:
    """Unpack one file; the exit codes are the runner's: 0 done, 2 usage or unreadable, 5 altered, 71 memory, 130 interrupted."""
    if len(arguments) != 2:
        print("usage: python unpack.py CONTAINER FILE", file=sys.stderr)
        return 2
    source, target = Path(arguments[0]), Path(arguments[1])
    part = Path(arguments[1] + ".part")
    try:
        if any(path.exists() and not path.is_file() for path in (source, target)):
            raise InvalidRequest("a directory, a device or a pipe is named; name ordinary files.")
        if target.exists() and target.samefile(source):
            raise InvalidRequest(f"{target} is the container itself; name another file.")
        part.write_bytes(unpack(source.read_bytes()))
        part.replace(target)
    except (OSError, ValueError, MemoryError, InvalidRequest, Altered) as error:
        print(f"error: {error or 'there is not enough memory'}", file=sys.stderr)
        return 5 if isinstance(error, Altered) else 71 if isinstance(error, MemoryError) else 2
    except KeyboardInterrupt:
        print("error: interrupted.", file=sys.stderr)
        return 130
    finally:
        if os.path.isfile(part):
            part.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
