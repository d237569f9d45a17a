"""Interleaved range asymmetric numeral systems (rANS): codes symbols of known integer frequencies as 16-bit words.

A lane is a number x in [2^24, 2^40). Writing a symbol of frequency f and cumulative frequency c, out of 2^16, turns x into
`(x // f) * 2^16 + c + x % f`. If the result would be too large, the low 16 bits of x are first written out as a word. Symbols go
to the lanes in turn, all lanes write into one stream, and reading reverses writing. Only integers are used, so that the result is
the same on every machine.

A reader's lanes end at the numbers at which the writer's lanes began. Therefore 24 bits of other data begin every lane
(`Writer.finish(tail)`) and are returned at the end of reading, so that additional lanes need no additional bytes.

**Source**: Duda, "Asymmetric numeral systems" (arXiv 1311.2540); Giesen, "Interleaved entropy coders" (arXiv 1402.3392).
"""

from __future__ import annotations

import numpy as np

from dyncompress.coding.tables import BITS, Tables
from dyncompress.errors import Altered
from dyncompress.types.arrays import Int64, Integer

LOW = 1 << 24  # the smallest state of a lane; its lower 24 bits hold a part of the tail
LANE_BYTES, TAIL_BYTES = 5, 3
_WORD = 16
_MASK = (1 << BITS) - 1


class Writer:
    """Collects symbols and writes them in reverse order.

    `symbols` and `uniform` return the values that they are given, so that the same code can write and read.
    """

    def __init__(self) -> None:
        """Start without symbols."""
        self._steps: list[tuple[np.ndarray, np.ndarray]] = []

    def symbols(
        self, tables: Tables, contexts: Integer[np.ndarray, " n"], values: Integer[np.ndarray, " n"]
    ) -> Integer[np.ndarray, " n"]:
        """Write symbols `[n]`, each with the frequencies of its row in `tables`, given by `contexts` `[n]`; return them."""
        self._steps.append((tables.frequency[contexts, values], tables.start[contexts, values]))
        return values

    def uniform(self, bits: Integer[np.ndarray, " n"], values: Integer[np.ndarray, " n"]) -> Integer[np.ndarray, " n"]:
        """Write numbers `[n]` below `2^bits` with equal frequencies and return them; `bits` `[n]` are at most 16."""
        shift = BITS - bits
        self._steps.append((np.left_shift(1, shift), values << shift))
        return values

    def finish(self, tail: bytes, lanes: int) -> bytes:
        """Write all symbols.

        Args:
            tail: `3 * lanes` bytes of other data, which the reader returns at its end.
            lanes: number of lanes.

        Returns:
            The stream: the lanes, 5 bytes each, then the words.
        """
        spread = np.frombuffer(tail, np.uint8).reshape(lanes, TAIL_BYTES).astype(np.int64)
        state = LOW + spread[:, 0] + (spread[:, 1] << 8) + (spread[:, 2] << 16)
        words: list[np.ndarray] = []
        for frequency, start in reversed(self._steps):
            n = len(frequency)
            for first in range((n - 1) // lanes * lanes if n else -1, -1, -lanes):
                f = frequency[first : first + lanes].astype(np.int64)
                x = state[: len(f)]
                full = x >= f << (40 - BITS)
                out = x[full]
                words.append((out & 0xFFFF)[::-1])
                x[full] = out >> _WORD
                whole, rest = np.divmod(x, f)
                x[:] = (whole << BITS) + rest + start[first : first + lanes]
        stream = np.concatenate(words)[::-1] if words else np.zeros(0, np.int64)
        head = (state[:, None] >> np.arange(0, 8 * LANE_BYTES, 8)) & 0xFF
        return head.astype(np.uint8).tobytes() + stream.astype("<u2").tobytes()


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
        self, tables: Tables, contexts: Integer[np.ndarray, " n"], values: Integer[np.ndarray, " n"] | None = None
    ) -> Int64[np.ndarray, " n"]:
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
        self, bits: Integer[np.ndarray, " n"], values: Integer[np.ndarray, " n"] | None = None
    ) -> Int64[np.ndarray, " n"]:
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

    def _refill(self, x: Int64[np.ndarray, " lanes"]) -> None:
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
