"""Adaptive integer frequency tables: the writer and the reader update the same counts, from which frequencies follow."""

from __future__ import annotations

import numpy as np

from dyncompress.types.arrays import Integer

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

    def __init__(self, prior: Integer[np.ndarray, "contexts width"]) -> None:
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

    def add(self, contexts: Integer[np.ndarray, " n"], symbols: Integer[np.ndarray, " n"]) -> None:
        """Count symbols `[n]` that were coded in `contexts` `[n]`."""
        self._queue.append(contexts * self.width + symbols)
        self._pending += len(symbols)
        if self._pending >= max(_FRESH, self._counted >> 6):
            counts = np.bincount(np.concatenate(self._queue), minlength=self.counts.size).reshape(self.counts.shape)
            self.counts += _STEP * counts
            self._counted += self._pending
            self._queue, self._pending = [], 0
            self._update(np.flatnonzero(counts.any(1)))

    def find(self, contexts: Integer[np.ndarray, " n"], slots: Integer[np.ndarray, " n"]) -> Integer[np.ndarray, " n"]:
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

    def _update(self, rows: Integer[np.ndarray, " rows"]) -> None:
        """Compute the frequencies of these rows from their counts."""
        counts = self.counts[rows]
        frequency = 1 + counts * (WHOLE - self.width) // counts.sum(1, keepdims=True)
        frequency[np.arange(len(rows)), counts.argmax(1)] += WHOLE - frequency.sum(1)
        self.frequency[rows] = frequency
        self.start[rows, 1 : self.width] = np.cumsum(frequency[:, :-1], 1)
