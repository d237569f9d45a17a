"""Adaptive integer frequency tables: counts that both sides keep, started from a prior, frequencies that sum to 2^16."""

from __future__ import annotations

import numpy as np

BITS = 16
WHOLE = 1 << BITS
_STEP = 32  # what one symbol adds to its count
_MANY, _NARROW = 1024, 64  # where halving finds symbols faster than comparing with all
_FRESH = 96  # symbols that may wait before the frequencies follow the counts


class Tables:
    """Rows of frequencies `[contexts, width]` that follow what was coded.

    A frequency is 1 + counts * (2^16 - width) // total; the row's rest goes to its largest count. Counts are taken in when at
    least 96 symbols wait, or 1/64 of all so far: a deterministic rule, the same for writer and reader.
    """

    def __init__(self, prior: np.ndarray) -> None:
        """Start from integer counts `[contexts, width]`, in 32nds of a symbol, each row with a positive sum."""
        self.counts = np.array(prior, np.int64)
        self.width = self.counts.shape[1]
        self.frequency = np.empty(self.counts.shape, np.int32)
        self.span = 1 << (self.width - 1).bit_length()
        self.start = np.full((len(self.counts), self.span), 2 * WHOLE, np.int32)  # of each symbol; beyond them above all slots
        self.start[:, 0] = 0
        self._waiting: list[np.ndarray] = []
        self._pending = self._seen = 0
        self._follow(np.arange(len(self.counts)))

    def add(self, contexts: np.ndarray, symbols: np.ndarray) -> None:
        """Count symbols `[n]` seen in `contexts` `[n]`."""
        self._waiting.append(contexts * self.width + symbols)
        self._pending += len(symbols)
        if self._pending >= max(_FRESH, self._seen >> 6):
            seen = np.bincount(np.concatenate(self._waiting), minlength=self.counts.size).reshape(self.counts.shape)
            self.counts += _STEP * seen
            self._seen += self._pending
            self._waiting, self._pending = [], 0
            self._follow(np.flatnonzero(seen.any(1)))

    def find(self, contexts: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """The symbols `[n]` in whose part of the rows `contexts` `[n]` the slots `[n]` lie.

        Few are compared with all starts at once; for many, halving is faster, twice so from a thousand on.
        """
        wanted = slots.astype(np.int32)
        if len(wanted) < _MANY and self.span <= _NARROW:
            below = self.start.take(contexts, 0) <= wanted[:, None]
            return (below.view(np.uint8) @ np.ones(self.span, np.uint8)).astype(np.int64) - 1
        start, first = self.start.ravel(), contexts * self.span
        at, step = first, self.span >> 1
        while step:
            at = at + step * (start[at + step] <= wanted)
            step >>= 1
        return at - first

    def _follow(self, rows: np.ndarray) -> None:
        counts = self.counts[rows]
        frequency = 1 + counts * (WHOLE - self.width) // counts.sum(1, keepdims=True)
        frequency[np.arange(len(rows)), counts.argmax(1)] += WHOLE - frequency.sum(1)
        self.frequency[rows] = frequency
        self.start[rows, 1 : self.width] = np.cumsum(frequency[:, :-1], 1)
