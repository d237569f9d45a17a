"""Risks of classifiers: the 0-1 loss, and the disagreement with the original, which needs no labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dyncompress.certificates.forms import check_class_labels, refuse_nan
from dyncompress.errors import InvalidRequest
from dyncompress.types.arrays import Float64


def predicted(outputs: np.ndarray) -> np.ndarray:
    """The predicted classes `[n, ...]` of scores `[n, classes, ...]`, the index of the largest; integers `[n]` are classes.

    Raises:
        InvalidRequest: axis 1 is missing or has fewer than two scores, or a score is nan.
    """
    outputs = np.asarray(outputs)
    if outputs.ndim == 1 and outputs.dtype.kind in "iu":
        return outputs
    if outputs.ndim < 2 or outputs.shape[1] < 2:
        raise InvalidRequest(
            f"outputs have shape {outputs.shape}; this risk takes scores [n, classes], 2 classes or more: pass another risk."
        )
    refuse_nan(outputs)
    return outputs.argmax(axis=1)


@dataclass(frozen=True)
class ZeroOne:
    """1 where the largest of the scores `[n, classes]`, or the predicted class `[n]`, isn't the label `[n]`, else 0.

    Example:
        >>> ZeroOne()(np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 0])).tolist()
        [0.0, 1.0]
    """

    binary: ClassVar[bool] = True

    @property
    def quantity(self) -> str:
        """What the mean of the losses is called."""
        return "error rate (0-1 loss)"

    def __call__(self, outputs: np.ndarray, labels: np.ndarray) -> Float64[np.ndarray, " n"]:
        """The losses `[n]` of scores `[n, classes]` under the labels `[n]`.

        Raises:
            InvalidRequest: outputs aren't such scores, or labels aren't one class index for each example.
        """
        guess, labels = predicted(outputs), np.asarray(labels)
        if guess.ndim > 1 and labels.shape == guess.shape:
            raise InvalidRequest(
                "zero_one takes one prediction for each example; for dense outputs pass a risk that averages them."
            )
        if labels.shape != guess.shape:
            raise InvalidRequest(
                f"labels have shape {labels.shape} and dtype {labels.dtype}; zero_one takes class indices of shape {guess.shape}."
            )
        classes = np.shape(outputs)[1] if np.ndim(outputs) > 1 else int(np.max(labels, initial=0)) + 1
        labels = check_class_labels(labels, len(guess), classes, "zero_one")
        return (guess != labels).astype(np.float64)


@dataclass(frozen=True)
class Agreement:
    """1 where any prediction of an example differs from the original's, else 0."""

    binary: ClassVar[bool] = True

    @property
    def quantity(self) -> str:
        """What the mean of the losses is called."""
        return "disagreement with the original"

    def __call__(self, outputs: np.ndarray, labels: np.ndarray) -> Float64[np.ndarray, " n"]:
        """The losses `[n]` of the file's scores `[n, classes, ...]` beside the original's, `labels`, of the same shape.

        Raises:
            InvalidRequest: one of them isn't scores, or the two have different shapes.
        """
        mine, theirs = predicted(outputs), predicted(labels)
        if mine.shape != theirs.shape:
            raise InvalidRequest(
                f"outputs predict {mine.shape}, the original's {theirs.shape}; both must be of the same examples."
            )
        return (mine != theirs).reshape(len(mine), -1).any(axis=1).astype(np.float64)
