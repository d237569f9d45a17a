"""Outputs whose rows a TopK puts in order: they are compared row by row after the rows have been matched.

A detector may choose its queries by score. Where two scores are next to equal, a rounding error exchanges them, and with them the
rows of all outputs. Consumers read the rows as a set, so exchanged rows aren't an error; a row that is missing is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from dyncompress.deployment.stripping import read

_EQUAL = 1e-4  # difference relative to the spread up to which rows are where they belong
Outputs = Sequence[np.ndarray]


@dataclass(frozen=True)
class RowOrder:
    """Which outputs have rows that may be exchanged, and what they are in the original's order.

    Attributes:
        places: indices of the outputs, all of shape `[n, rows, ...]` with the same number of rows.
        wanted: these outputs of the original.
    """

    places: tuple[int, ...]
    wanted: tuple[np.ndarray, ...]

    def matched(self, outputs: Outputs) -> tuple[np.ndarray, ...]:
        """The outputs with the rows of each example in the order in which they are nearest to the original's."""
        own = [outputs[place] for place in self.places]
        if not self.places or any(a.shape != b.shape for a, b in zip(own, self.wanted, strict=True)):
            return tuple(outputs)
        found, wanted = _features(own, self.wanted), _features(self.wanted, self.wanted)
        order = np.tile(np.arange(found.shape[1]), (len(found), 1))
        for i in np.flatnonzero(np.abs(found - wanted).max((1, 2)) > _EQUAL):
            distances = np.square(wanted[i][:, None] - found[i][None]).sum(-1)
            order[i] = linear_sum_assignment(distances)[1]
        rows = np.arange(len(found))[:, None]
        return tuple(value[rows, order] if place in self.places else value for place, value in enumerate(outputs))


AS_IT_IS = RowOrder((), ())


def row_order(float_file: bytes, original: Outputs) -> RowOrder:
    """The order of rows of a graph's outputs; none may be exchanged where the graph has no TopK.

    Args:
        float_file: ONNX.
        original: the outputs of the original, each `[n, ...]`.
    """
    chooses = any(node.op_type == "TopK" for node in read(float_file).graph.node)
    rows = [value.shape[1] for value in original if value.ndim >= 3 and value.dtype.kind == "f"]
    if not chooses or not rows:
        return AS_IT_IS
    places = tuple(i for i, v in enumerate(original) if v.ndim >= 3 and v.dtype.kind == "f" and v.shape[1] == rows[0])
    return RowOrder(places, tuple(np.asarray(original[place]) for place in places))


def _features(outputs: Outputs, like: Outputs) -> np.ndarray:
    """All numbers of a row side by side, `[n, rows, numbers]`, each output in units of the spread of `like`."""
    parts = []
    for value, scale in zip(outputs, like, strict=True):
        flat = np.nan_to_num(np.asarray(value, np.float64).reshape(*value.shape[:2], -1))
        parts.append(flat / max(float(np.nan_to_num(scale).std()), 1e-30) / flat.shape[2] ** 0.5)
    return np.concatenate(parts, axis=2)
