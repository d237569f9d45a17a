"""Codes that depend on each other: each is one of half the integers, and the codes before it say which half.

A path of states runs through every output channel's codes. In a state of class 0 a code is an even number 2 k, in one of class
1 it is 0 or odd, 2 k - sign(k); the parity of the index k chooses the next state. Steps can be nearly twice as wide for the
same choice of values over two codes, and a rounder that looks for the best path reaches a smaller error at the same entropy:
points of a lattice of many dimensions instead of a cube's corners.

**Source**: trellis-coded quantization, Marcellin and Fischer 1990; its entropy-coded form with indices by class, Joshi, Crump
and Fischer 1995, as in the dependent quantization of VVC and of ISO/IEC 15938-17 for neural networks. The code is Ungerboeck's
of 1982.
"""

from __future__ import annotations

import numpy as np

from dyncompress.coding.layout import Layout

STATES = 8
_CHECKS = (0o13, 0o04)  # Ungerboeck's parity checks of 8 states


def _steps() -> tuple[np.ndarray, np.ndarray]:
    """Next state `[states, parity]` and class `[states]`, from the systematic feedback form of the code."""
    memory = STATES.bit_length() - 1
    after, kind = np.zeros((STATES, 2), np.int64), np.arange(STATES) & 1
    for state in range(STATES):
        for parity in (0, 1):
            fed = _CHECKS[0] * (state & 1) ^ _CHECKS[1] * parity
            after[state, parity] = (state ^ fed) >> 1 & (1 << memory) - 1
    return after, kind


NEXT, CLASS = _steps()


def index_of(code: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Index k of codes that are allowed in their class."""
    return np.sign(code) * (np.abs(code) + kind >> 1)


def code_of(index: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """The inverse of `index_of`."""
    return 2 * index - kind * np.sign(index)


def allowed(code: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Whether codes are among those of their class."""
    return (code == 0) | (code & 1 == kind)


def paths(out: int, fan_in: int, *kernel: int) -> list[list[int]]:
    """Where the paths of a channel's codes run: lanes, one after another, of places in its `[in, *kernel]` codes, flat.

    None for a tensor `(out, in, *kernel)` with a larger kernel than the coder looks into.

    Example:
        >>> paths(32, 3, 3)
        [[1, 7, 0, 6, 2, 8], [4, 3, 5]]
    """
    layout = Layout.of((fan_in, out, *kernel), alike=True)
    size, rows, columns = layout.shape
    if (rows, columns) != (fan_in, out):
        return []
    lanes = min(layout.rows[0], fan_in)
    turns = [at for at, _, _ in layout.phases] if size > 1 else [0]
    return [[c * size + at for at in turns for c in range(lane, fan_in, lanes)] for lane in range(lanes)]


def on_paths(codes: np.ndarray) -> bool:
    """Whether codes `[in, out, *kernel]` follow paths of the trellis along their first axis."""
    layout = Layout.of(codes.shape, alike=True)
    seen, states = layout.seen(codes.astype(np.int64)), np.zeros((0, 0), np.int64)
    for turn, begins, rows in layout.blocks():
        at, part, _ = layout.phases[turn]
        if begins and layout.anew(turn):
            states = np.zeros((layout.rows[turn], part.stop - part.start), np.int64)
        state, block = states[: rows.stop - rows.start], seen[at, rows, part]
        kind = CLASS[state]
        if not allowed(block, kind).all():
            return False
        state[:] = NEXT[state, index_of(block, kind) & 1]
    return True
