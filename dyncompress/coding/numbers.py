# pyright: reportArgumentType=false
# (one model writes and reads: a reader is given nothing)
"""Numbers of any type: how many bits each has from an adaptive table, the bits themselves as they are.

Biases, scales, zero points and indices are few and wide, so that nothing can be learned about their low bits. An array is
read as integers: floats by the order of their bit patterns (sign and magnitude), without trailing bits that are zero in nearly
all of them (a scale rounded to bfloat16 has 16; those few that have other bits there are written out), and relative to their
median, that to the one of the array before.

The low bits of all arrays form one string of bits, which a reader gets after everything else (it is what the lanes of the
coder begin with): a reader knows the lengths at once, and the values from `Bits` when that string is there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.coding.tables import Tables
from dyncompress.coding.weights import Coder
from dyncompress.errors import Altered

_LENGTHS = 35  # of a magnitude: 0 to 34 bits
_WRITTEN_OUT = 2 * _LENGTHS  # the token of a number that goes as it is
_MARK = 1 << 40  # added to such a number
_SMALL = 4  # arrays below this size have no median of their own, and are read relative to the number before
_MEDIAN, _VALUE = 0, 1


@dataclass(frozen=True)
class Kind:
    """A type of numbers: what an integer view of it needs to know."""

    size: int
    floating: bool = False
    signed: bool = False

    @property
    def dtype(self) -> str:
        """Of numpy's view: floats as unsigned integers."""
        return f"<{'i' if self.signed else 'u'}{self.size}"


class Bits:
    """A string of bits: numbers of given widths, most significant bit first."""

    def __init__(self, content: bytes = b"") -> None:
        """Read from `content`, or write to `bytes`."""
        self._content = content
        self._at = 0
        self._written: list[np.ndarray] = []

    def write(self, values: np.ndarray, widths: np.ndarray) -> None:
        """Append numbers `[n]` of `widths` `[n]` bits."""
        which, place = _places(widths)
        self._written.append((values[which] >> place & 1).astype(np.uint8))

    def read(self, widths: np.ndarray) -> np.ndarray:
        """The next numbers.

        Raises:
            Altered: there are fewer bits.
        """
        which, place = _places(widths)
        end = self._at + len(which)
        if end > 8 * len(self._content):
            raise Altered("the file ends before its last number; it was cut or changed.")
        window = np.frombuffer(self._content, np.uint8)[self._at >> 3 : (end + 7) >> 3]
        bits = np.unpackbits(window)[self._at & 7 :][: len(which)]
        self._at = end
        values = np.zeros(len(widths), np.int64)
        np.add.at(values, which, bits.astype(np.int64) << place)
        return values

    def bytes(self) -> bytes:
        """All that was written, filled up with zeros to whole bytes."""
        return np.packbits(np.concatenate([np.zeros(0, np.uint8), *self._written])).tobytes()


def _places(widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every bit, which number it belongs to and what place it has there."""
    which = np.repeat(np.arange(len(widths)), widths)
    return which, (np.cumsum(widths)[which] - 1) - np.arange(len(which))


class NumberMemory:
    """What one array leaves to the next: tables of lengths and shifts, and the last number of each kind."""

    def __init__(self) -> None:
        """Before the first array."""
        self.lengths = Tables(np.full((8, 2 * _LENGTHS + 1), 2))
        self.shifts = Tables(np.full((2, 24), 4))
        self.last: dict[int, int] = {}


def code_numbers(coder: Coder, memory: NumberMemory, kind: Kind, count: int, given: np.ndarray | None = None) -> np.ndarray:
    """Write or read the lengths of an array's numbers, its shift first.

    Args:
        coder: where they go, or come from.
        memory: of the arrays before; changed.
        kind: of the numbers.
        count: how many.
        given: what `relative` made of them; None for reading.

    Returns:
        shift and lengths: `[shift, length (+ 35 where negative), ...]`, what `resolved` and `low_bits` need.
    """
    group = _group(kind, count)
    shift = np.zeros(1, np.int64)
    if kind.floating:
        here = np.array([group & 1])
        shift = coder.symbols(memory.shifts, here, None if given is None else given[:1])
        memory.shifts.add(here, shift)
    contexts = np.full(count + _leads(kind, count), 2 * group + _VALUE)
    contexts[: _leads(kind, count)] = 2 * group + _MEDIAN
    tokens = None if given is None else _tokens(given[1:])
    found = []
    for first in range(0, len(contexts), 64):
        part = contexts[first : first + 64]
        found.append(coder.symbols(memory.lengths, part, None if tokens is None else tokens[first : first + 64]))
        memory.lengths.add(part, found[-1])
    return np.concatenate([shift, *found])


def relative(memory: NumberMemory, kind: Kind, raw: bytes) -> np.ndarray:
    """The shift, the median where there is one, and the numbers relative to it, `[1 + (0 or 1) + count]` int64.

    Example:
        >>> relative(NumberMemory(), Kind(4, floating=True), np.float32([0.5, 1, 2, 1, 1]).tobytes()).tolist()
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


def low_bits(bits: Bits, kind: Kind, given: np.ndarray) -> None:
    """Append what the lengths of `relative`'s answer leave open."""
    magnitude, widths = np.abs(given[1:]), _widths(kind, _tokens(given[1:]))
    bits.write(magnitude & (np.left_shift(1, widths) - 1), widths)


def resolved(bits: Bits, memory: NumberMemory, kind: Kind, found: np.ndarray) -> bytes:
    """The bytes of an array whose shift and lengths were read; arrays in the order of reading.

    Raises:
        Altered: the bits end, or a number is beyond its type.
    """
    shift, tokens = int(found[0]), found[1:]
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
    """What an array takes, estimated: the entropy of its lengths, and its low bits."""
    given = relative(NumberMemory(), kind, raw)
    tokens = _tokens(given[1:])
    seen = np.bincount(tokens)
    seen = seen[seen > 0]
    learned = 5 * len(seen) - float((seen * np.log2(seen / len(tokens))).sum())
    return learned + float(_widths(kind, tokens).sum())


def _group(kind: Kind, count: int) -> int:
    return (0 if kind.floating else 2) + (count < _SMALL)


def _leads(kind: Kind, count: int) -> int:
    return int(kind.floating and count >= _SMALL)


def _tokens(signed: np.ndarray) -> np.ndarray:
    return np.where(signed >= _MARK, _WRITTEN_OUT, _bit_lengths(np.abs(signed)) + _LENGTHS * (signed < 0))


def _widths(kind: Kind, tokens: np.ndarray) -> np.ndarray:
    """How many low bits a token leaves open."""
    return np.where(tokens == _WRITTEN_OUT, 8 * kind.size, np.maximum(tokens % _LENGTHS - 1, 0))


def _bit_lengths(magnitude: np.ndarray) -> np.ndarray:
    return np.frexp(magnitude.astype(np.float64))[1].astype(np.int64)  # exact: below 2^53


def _common_shift(magnitude: np.ndarray) -> int:
    """The number of trailing bits that is cheapest to leave out: one bit a number each, a whole number where they aren't 0."""
    lowest = magnitude & -magnitude
    zeros = np.where(magnitude > 0, np.minimum(_bit_lengths(lowest) - 1, 23), 23)
    if len(zeros) < _SMALL:
        return int(zeros.min(initial=23)) if len(zeros) else 0
    return max(range(24), key=lambda shift: shift * len(zeros) - 24 * int((zeros < shift).sum()))
