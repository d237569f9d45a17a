"""Trellis-coded quantization: each code is from one half of the integers, and the codes before it determine which half.

A path of states runs through the codes of every output channel. In a state of class 0 a code is an even number 2 k, in one of
class 1 it is 0 or odd, 2 k - sign(k); the parity of the index k chooses the next state. Over two codes, the same values are
available with steps that are nearly twice as wide. A quantizer that searches for the best path reaches a smaller error at the
same entropy, because the values form a lattice in many dimensions that is denser than a cubic one.

**Source**: trellis-coded quantization, Marcellin and Fischer 1990; its entropy-coded form with indices by class, Joshi, Crump
and Fischer 1995, as in the dependent quantization of VVC and of ISO/IEC 15938-17 for neural networks. The code is Ungerboeck's
of 1982.
"""

from __future__ import annotations

import numpy as np

from dyncompress.coding.layout import Layout
from dyncompress.types.arrays import Bool, Int64, Integer

STATES = 8
_CHECKS = (0o13, 0o04)  # Ungerboeck's parity checks of 8 states


def _steps() -> tuple[Int64[np.ndarray, "states 2"], Int64[np.ndarray, " states"]]:
    """The next state `[states, parity]` and class `[states]` of every state, from the systematic feedback form of the code."""
    memory = STATES.bit_length() - 1
    after, kind = np.zeros((STATES, 2), np.int64), np.arange(STATES) & 1
    for state in range(STATES):
        for parity in (0, 1):
            fed = _CHECKS[0] * (state & 1) ^ _CHECKS[1] * parity
            after[state, parity] = (state ^ fed) >> 1 & (1 << memory) - 1
    return after, kind


NEXT, CLASS = _steps()


def index_of(code: Integer[np.ndarray, "*shape"], kind: Integer[np.ndarray, "*shape"]) -> Integer[np.ndarray, "*shape"]:
    """The indices k of codes in states of class `kind` (0 or 1); the codes must be allowed there.

    Example:
        >>> index_of(np.array([4, -3]), np.array([0, 1])).tolist()
        [2, -2]
    """
    return np.sign(code) * (np.abs(code) + kind >> 1)


def code_of(index: Integer[np.ndarray, "*shape"], kind: Integer[np.ndarray, "*shape"]) -> Integer[np.ndarray, "*shape"]:
    """The codes of indices in states of class `kind`: the inverse of `index_of`."""
    return 2 * index - kind * np.sign(index)


def allowed(code: Integer[np.ndarray, "*shape"], kind: Integer[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
    """Whether each code is allowed in a state of class `kind`."""
    return (code == 0) | (code & 1 == kind)


def paths(out: int, fan_in: int, *kernel: int) -> list[list[int]]:
    """The paths through the codes of one output channel of a tensor `(out, in, *kernel)`.

    Returns:
        For each path, the flat indices into the channel's codes `[in, *kernel]`, in order. The list is empty for a kernel of more
        than 256 positions, for which the coder doesn't use paths.

    Example:
        >>> paths(32, 3, 3)
        [[1, 7, 0, 6, 2, 8], [4, 3, 5]]
    """
    layout = Layout.of((fan_in, out, *kernel), alike=True)
    size, rows, columns = layout.shape
    if (rows, columns) != (fan_in, out):
        return []
    lanes = min(layout.rows[0], fan_in)
    order = [at for at, _, _ in layout.phases] if size > 1 else [0]
    return [[c * size + at for at in order for c in range(lane, fan_in, lanes)] for lane in range(lanes)]


def on_paths(codes: Integer[np.ndarray, "*axes"]) -> bool:
    """Whether codes `[in, out, *kernel]` follow paths of the trellis along their first axis."""
    layout = Layout.of(codes.shape, alike=True)
    cube, states = layout.by_position(codes.astype(np.int64)), np.zeros((0, 0), np.int64)
    for phase, begins, rows in layout.blocks():
        at, part, _ = layout.phases[phase]
        if begins and layout.starts_paths(phase):
            states = np.zeros((layout.rows[phase], part.stop - part.start), np.int64)
        state, block = states[: rows.stop - rows.start], cube[at, rows, part]
        kind = CLASS[state]
        if not allowed(block, kind).all():
            return False
        state[:] = NEXT[state, index_of(block, kind) & 1]
    return True
