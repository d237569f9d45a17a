"""Interleaved range asymmetric numeral systems (rANS): symbols of known integer frequencies to 16-bit words and back.

A lane is a number x in [2^24, 2^40). Writing a symbol of frequency f and cumulative frequency c, out of 2^16, makes it
`(x // f) * 2^16 + c + x % f`; what doesn't fit goes out as a word of 16 bits first. Symbols go to the lanes in turn, all lanes
write into one stream, and reading undoes writing in the reverse order. Integers only: every machine reads the same.

A reader's lanes end where the writer's began, so that a writer may begin anywhere: 24 bits of other data start every lane
(`Writer.finish(tail)`) and come back at the end of reading, which makes any number of lanes free of charge.

**Source**: Duda, "Asymmetric numeral systems" (arXiv 1311.2540); Giesen, "Interleaved entropy coders" (arXiv 1402.3392).
"""

from __future__ import annotations

import numpy as np

from dyncompress.coding.tables import BITS, Tables
from dyncompress.errors import Altered

LOW = 1 << 24  # the smallest state; 24 bits of a lane carry the tail
LANE_BYTES, TAIL_BYTES = 5, 3
_WORD = 16
_MASK = (1 << BITS) - 1


class Writer:
    """Takes symbols forwards, writes them backwards. `symbols` answers what it was given, so that one model serves both ways."""

    def __init__(self) -> None:
        """Start without symbols."""
        self._steps: list[tuple[np.ndarray, np.ndarray]] = []

    def symbols(self, tables: Tables, contexts: np.ndarray, given: np.ndarray) -> np.ndarray:
        """Write the symbols `given` `[n]`, each by the row of the table that `contexts` `[n]` names."""
        self._steps.append((tables.frequency[contexts, given], tables.start[contexts, given]))
        return given

    def uniform(self, bits: np.ndarray, given: np.ndarray) -> np.ndarray:
        """Write numbers `given` `[n]` below `2^bits`, `bits` `[n]` at most 16, all values alike."""
        shift = BITS - bits
        self._steps.append((np.left_shift(1, shift), given << shift))
        return given

    def finish(self, tail: bytes, lanes: int) -> bytes:
        """The stream: lanes (5 bytes each), then words.

        Args:
            tail: `3 * lanes` bytes that the reader gets back at its end.
            lanes: how many.
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
    """Reads what `Writer` wrote: the same calls in the same order, `given` left out."""

    def __init__(self, stream: bytes, lanes: int) -> None:
        """Start at the first word.

        Raises:
            Altered: the stream is too short for its lanes, or has half a word.
        """
        head = LANE_BYTES * lanes
        if len(stream) < head or (len(stream) - head) % 2:
            raise Altered(f"the coded stream has {len(stream)} bytes, which no {lanes} lanes make; the file was cut or changed.")
        spread = np.frombuffer(stream, np.uint8, head).reshape(lanes, LANE_BYTES).astype(np.int64)
        self._state = (spread << np.arange(0, 8 * LANE_BYTES, 8)).sum(1)
        self._words = np.frombuffer(stream, "<u2", offset=head).astype(np.int64)
        self._at = 0

    def symbols(self, tables: Tables, contexts: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
        """Read one symbol for each of `contexts` `[n]`."""
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

    def uniform(self, bits: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
        """Read numbers below `2^bits`."""
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
        low = np.flatnonzero(x < LOW)
        taken = self._words[self._at : self._at + len(low)]
        self._at += len(low)
        if len(taken) < len(low):
            raise Altered("the coded stream ends before its last symbol; the file was cut or changed.")
        x[low] = (x[low] << _WORD) | taken

    def finish(self) -> bytes:
        """The tail that the writer's lanes began with.

        Raises:
            Altered: words are left over, or a lane ended where none begins.
        """
        rest = self._state - LOW
        if self._at != len(self._words) or (rest < 0).any() or (rest >= LOW).any():
            raise Altered("the coded stream doesn't end where it was begun; the file was changed.")
        return ((rest[:, None] >> np.array([0, 8, 16])) & 0xFF).astype(np.uint8).tobytes()
