# pyright: reportArgumentType=false
# (the same code writes and reads: a reader gets None in place of values)
"""Coding of numbers of any type: the bit length of each by an adaptive table, and its lower bits without compression.

Arrays of biases, scales, zero points and indices are short and their numbers wide, so that their low bits can't be predicted. An
array is treated as integers. Floats are ordered by their bit patterns (sign and magnitude). Trailing bits that are zero in nearly
all of them are left out (16 for a scale rounded to bfloat16); the few numbers with other bits there are written in full. Numbers
are relative to their median, and the median is relative to that of the array before.

The low bits of all arrays form one string, which a reader gets last, because the lanes of the coder begin with it. A reader
therefore knows the lengths first, and the values once it has the `Bits`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.coding.tables import Tables
from dyncompress.coding.weights import Coder
from dyncompress.errors import Altered
from dyncompress.types.arrays import Int64, Integer

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

    def write(self, values: Integer[np.ndarray, " n"], widths: Integer[np.ndarray, " n"]) -> None:
        """Append numbers `[n]` of `widths` `[n]` bits."""
        owner, shift = _bit_positions(widths)
        self._written.append((values[owner] >> shift & 1).astype(np.uint8))

    def read(self, widths: Integer[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
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


def _bit_positions(widths: Integer[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " bits"], Int64[np.ndarray, " bits"]]:
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
    coder: Coder, memory: NumberMemory, kind: Kind, count: int, values: Int64[np.ndarray, " m"] | None = None
) -> Int64[np.ndarray, " m"]:
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


def relative_numbers(memory: NumberMemory, kind: Kind, raw: bytes) -> Int64[np.ndarray, " m"]:
    """The shift, the median where there is one, and the numbers relative to it, `[1 + (0 or 1) + count]` int64.

    Args:
        memory: the state after the arrays before; it is updated.
        kind: type of the numbers.
        raw: bytes of the array, little-endian.

    Example:
        >>> relative_numbers(NumberMemory(), Kind(4, floating=True), np.float32([0.5, 1, 2, 1, 1]).tobytes()).tolist()
        [23, 127, -1, 0, 1, 0, 0]
    """
    whole = np.frombuffer(raw, kind.dtype).astype(np.int64)
    count, shift = len(whole), 0
    rest = np.zeros(count, np.int64)
    if kind.floating:
        top = 1 << (8 * kind.size - 1)
        magnitude = whole & (top - 1)
        shift = _common_shift(magnitude)
        rest = np.where(magnitude & ((1 << shift) - 1) > 0, whole + _MARK, 0)
        magnitude >>= shift
        whole = np.where(whole >= top, -1 - magnitude, magnitude)
    group = _group(kind, count)
    before = memory.last.get(group, 0)
    if _leads(kind, count):
        lead = int(np.sort(whole)[count // 2])
        memory.last[group] = lead << shift
        return np.concatenate([[shift, lead - (before >> shift)], np.where(rest > 0, rest, whole - lead)])
    if count >= _SMALL:
        return np.concatenate([[shift], whole])
    memory.last[group] = int(whole[-1]) << shift if count else before
    return np.concatenate([[shift], whole - (before >> shift)])


def low_bits(bits: Bits, kind: Kind, values: Int64[np.ndarray, " m"]) -> None:
    """Append the lower bits of the numbers that `relative_numbers` returned, which follow their bit lengths."""
    magnitude, widths = np.abs(values[1:]), _widths(kind, _tokens(values[1:]))
    bits.write(magnitude & (np.left_shift(1, widths) - 1), widths)


def number_bytes(bits: Bits, memory: NumberMemory, kind: Kind, coded: Int64[np.ndarray, " m"]) -> bytes:
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


def bits_of(kind: Kind, raw: bytes) -> float:
    """Estimate the bits that an array takes: the entropy of its lengths, and its low bits."""
    tokens = _tokens(relative_numbers(NumberMemory(), kind, raw)[1:])
    counts = np.bincount(tokens)
    counts = counts[counts > 0]
    learned = 5 * len(counts) - float((counts * np.log2(counts / len(tokens))).sum())
    return learned + float(_widths(kind, tokens).sum())


def _group(kind: Kind, count: int) -> int:
    """The index of the group of arrays that share tables and the last number: by type, and by size."""
    return (0 if kind.floating else 2) + (count < _SMALL)


def _leads(kind: Kind, count: int) -> int:
    """1 where the median precedes the numbers, else 0."""
    return int(kind.floating and count >= _SMALL)


def _tokens(signed: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The bit lengths of numbers with their signs, or the token of numbers that are written in full."""
    return np.where(signed >= _MARK, _WRITTEN_OUT, _bit_lengths(np.abs(signed)) + _LENGTHS * (signed < 0))


def _widths(kind: Kind, tokens: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The number of low bits that follow each token."""
    return np.where(tokens == _WRITTEN_OUT, 8 * kind.size, np.maximum(tokens % _LENGTHS - 1, 0))


def _bit_lengths(magnitude: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The bit lengths of non-negative integers; that of 0 is 0."""
    return np.frexp(magnitude.astype(np.float64))[1].astype(np.int64)  # exact: below 2^53


def _common_shift(magnitude: Int64[np.ndarray, " n"]) -> int:
    """The number of trailing bits to leave out at the least cost.

    Each saves one bit for every number; a number in which they aren't zero is written in full.
    """
    lowest = magnitude & -magnitude
    zeros = np.where(magnitude > 0, np.minimum(_bit_lengths(lowest) - 1, 23), 23)
    if len(zeros) < _SMALL:
        return int(zeros.min(initial=23)) if len(zeros) else 0
    return max(range(24), key=lambda shift: shift * len(zeros) - 24 * int((zeros < shift).sum()))
