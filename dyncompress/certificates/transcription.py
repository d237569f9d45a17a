"""Risks of models that transcribe: whether the sequence is right, and its edit distance from the right one.

The first output is either CTC scores `[n, T, classes]`, which are decoded greedily (the best class of every step, repetitions
joined, blanks left out), or integer sequences `[n, T]` that are padded with -1. Labels are integer sequences `[n, L]`, padded at
the end with -1; without the blank, where the outputs are CTC scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dyncompress.certificates.forms import refuse_nan
from dyncompress.errors import InvalidRequest
from dyncompress.types.arrays import Float64, Int64, Shaped

PADDING = -1


@dataclass(frozen=True)
class ExactMatch:
    """1 where the transcription isn't exactly the label, else 0.

    Attributes:
        blank: index of the blank among the classes of CTC scores; integer sequences don't use it.

    Example:
        >>> ExactMatch()(np.array([[3, 1, -1], [3, 2, 2]]), np.array([[3, 1], [3, 2]])).tolist()
        [0.0, 1.0]
    """

    blank: int = 0

    binary: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the option."""
        _check_blank(self.blank, "exact_match")

    @property
    def quantity(self) -> str:
        """What the mean of the losses is called."""
        return "transcription error rate (exact match)"

    def __call__(self, outputs: np.ndarray, labels: np.ndarray) -> Float64[np.ndarray, " n"]:
        """The losses `[n]` of CTC scores `[n, T, classes]` or sequences `[n, T]` under labels `[n, L]`.

        Raises:
            InvalidRequest: outputs or labels have another form, or a score is nan.
        """
        found, right = _sequences(outputs, labels, self.blank, "exact_match")
        width = max(found.shape[1], right.shape[1])
        found, right = (np.pad(x, ((0, 0), (0, width - x.shape[1])), constant_values=PADDING) for x in (found, right))
        return (found != right).any(axis=1).astype(np.float64)


@dataclass(frozen=True)
class CharacterErrors:
    """The edit distance from the label divided by the label's length, at most 1.

    The edit distance is the least number of insertions, deletions and substitutions. An empty label has loss 0 if the
    transcription is empty, else 1.

    Attributes:
        blank: index of the blank among the classes of CTC scores; integer sequences don't use it.

    Example:
        >>> CharacterErrors()(np.array([[3, 1, -1], [3, 2, 2]]), np.array([[3, 1], [3, 2]])).tolist()
        [0.0, 0.5]
    """

    blank: int = 0

    binary: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the option."""
        _check_blank(self.blank, "character_errors")

    @property
    def quantity(self) -> str:
        """What the mean of the losses is called."""
        return "character error rate (edit distance over the label's length, at most 1)"

    def __call__(self, outputs: np.ndarray, labels: np.ndarray) -> Float64[np.ndarray, " n"]:
        """The losses `[n]` of CTC scores `[n, T, classes]` or sequences `[n, T]` under labels `[n, L]`.

        Raises:
            InvalidRequest: outputs or labels have another form, or a score is nan.
        """
        found, right = _sequences(outputs, labels, self.blank, "character_errors")
        length = (right != PADDING).sum(axis=1)
        return np.minimum(edit_distances(found, right) / np.maximum(length, 1), 1.0)


def edit_distances(one: Int64[np.ndarray, "n t"], other: Int64[np.ndarray, "n l"]) -> Int64[np.ndarray, " n"]:
    """The edit distances `[n]` of pairs of sequences `[n, T]` and `[n, L]`, both padded at the end with -1.

    Levenshtein's recursion runs over the first sequence, for all pairs at once. Within a row the minimum over deletions is a
    running minimum: d_j = j + min over i <= j of (e_i - i), e_i the cost without deletions.
    Cost: T operations on arrays `[n, L + 1]`.

    Example:
        >>> edit_distances(np.array([[1, 2, 3]]), np.array([[2, 3, 4]])).tolist()
        [2]
    """
    lengths, columns = (one != PADDING).sum(axis=1), np.arange(other.shape[1] + 1)
    row = np.tile(columns, (len(one), 1))
    for i in range(int(lengths.max(initial=0))):
        entries = np.empty_like(row)
        entries[:, 0] = i + 1
        entries[:, 1:] = np.minimum(row[:, 1:] + 1, row[:, :-1] + (other != one[:, i : i + 1]))
        entries = columns + np.minimum.accumulate(entries - columns, axis=1)
        row = np.where((i < lengths)[:, None], entries, row)
    return np.take_along_axis(row, (other != PADDING).sum(axis=1)[:, None], axis=1)[:, 0]


def greedy_path(scores: np.ndarray, blank: int) -> Int64[np.ndarray, "n t"]:
    """The sequences `[n, T]`, padded with -1, of CTC scores `[n, T, classes]` decoded greedily.

    Example: two equal classes in succession are one symbol, unless a blank stands between them.
        >>> greedy_path(np.eye(3)[[[1, 1, 0, 1, 2]]], blank=0).tolist()
        [[1, 1, 2, -1, -1]]
    """
    best = scores.argmax(axis=2)
    kept = best != blank
    kept[:, 1:] &= best[:, 1:] != best[:, :-1]
    return _moved_to_front(best, kept)


def _moved_to_front(values: Shaped[np.ndarray, "n t"], kept: Shaped[np.ndarray, "n t"]) -> Int64[np.ndarray, "n t"]:
    """The kept values of every row in their order, and -1 behind them."""
    order = np.argsort(~kept, axis=1, kind="stable")
    inside = np.arange(values.shape[1]) < kept.sum(axis=1)[:, None]
    return np.where(inside, np.take_along_axis(values, order, axis=1).astype(np.int64), PADDING)


def _sequences(outputs: np.ndarray, labels: np.ndarray, blank: int, risk: str) -> tuple[np.ndarray, np.ndarray]:
    """The sequences that the outputs and the labels hold, int64, `[n, T]` and `[n, L]`, padded at the end with -1."""
    outputs = np.asarray(outputs)
    scores = outputs.ndim == 3 and outputs.dtype.kind == "f" and outputs.shape[2] > 1
    if not scores and not (outputs.ndim == 2 and outputs.dtype.kind in "iu"):
        raise InvalidRequest(
            f"outputs have shape {outputs.shape} and dtype {outputs.dtype}; {risk} takes CTC scores [n, T, classes] or integer "
            "sequences [n, T] padded with -1."
        )
    right = _labels(labels, len(outputs), risk)
    if not scores:
        if outputs.dtype.kind == "i" and outputs.size and outputs.min() < PADDING:
            raise InvalidRequest(f"the outputs hold the symbol {outputs.min()}; {risk} takes symbols from 0 and the padding -1.")
        return _moved_to_front(outputs, outputs != PADDING if outputs.dtype.kind == "i" else np.ones_like(outputs, bool)), right
    refuse_nan(outputs)
    classes = outputs.shape[2]
    if blank >= classes:
        raise InvalidRequest(f"{risk}: blank is {blank}, and the outputs have classes 0 to {classes - 1}; give one of them.")
    if right.size and right.max() >= classes:
        raise InvalidRequest(f"labels reach to {right.max()}, the model has classes 0 to {classes - 1}.")
    if (right == blank).any():
        raise InvalidRequest(
            f"labels hold {blank}, the blank of {risk}; give the blank's index, e.g. {risk}:blank={classes - 1}."
        )
    return greedy_path(outputs, blank), right


def _labels(labels: np.ndarray, n: int, risk: str) -> Int64[np.ndarray, "n l"]:
    """The labels as int64 `[n, L]`, checked.

    Raises:
        InvalidRequest: another shape or dtype, a number below -1, or a symbol behind the padding.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or len(labels) != n or labels.dtype.kind not in "iu":
        raise InvalidRequest(
            f"labels have shape {labels.shape} and dtype {labels.dtype}; {risk} takes integers of shape [{n}, L], padded at the "
            "end with -1."
        )
    labels = labels.astype(np.int64)
    if labels.size and labels.min() < PADDING:
        raise InvalidRequest(f"labels hold {labels.min()}; {risk} takes symbols from 0 and the padding -1.")
    padded = labels == PADDING
    late = (padded[:, :-1] & ~padded[:, 1:]).any(axis=1)
    if late.any():
        raise InvalidRequest(
            f"label {int(np.flatnonzero(late)[0])} has a symbol behind the padding -1; pad labels at the end only."
        )
    return labels


def _check_blank(blank: int, risk: str) -> None:
    """Refuse a blank that is no index of a class."""
    if blank < 0:
        raise InvalidRequest(f"{risk}: blank is {blank}; give the index of the blank among the classes, 0 or more.")
