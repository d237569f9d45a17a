"""Risks: functions that compute one loss in [0, 1] for each example.

A user's own risk is any callable `(outputs, labels) -> losses [n]`; `losses_of` checks the losses that it returns.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.types import Risk
from dyncompress.types.arrays import Float64


def predicted(outputs: np.ndarray) -> np.ndarray:
    """The predicted classes `[n, ...]` of scores `[n, classes, ...]`: the index of the largest score.

    Raises:
        InvalidRequest: axis 1 is missing or has fewer than two scores, or a score is NaN.
    """
    outputs = np.asarray(outputs)
    if outputs.ndim < 2 or outputs.shape[1] < 2:
        raise InvalidRequest(
            f"outputs have shape {outputs.shape}; this risk takes scores [n, classes], 2 classes or more: pass your own risk."
        )
    if np.isnan(outputs).any():
        raise InvalidRequest("the outputs contain nan, which isn't a score; check the model on these inputs.")
    return outputs.argmax(axis=1)


def zero_one(outputs: np.ndarray, labels: np.ndarray) -> Float64[np.ndarray, " n"]:
    """The 0-1 loss `[n]`: 1 where the largest of the scores `[n, classes]` isn't at the label `[n]`.

    Raises:
        InvalidRequest: labels aren't one class index for each example.

    Example:
        >>> zero_one(np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 0])).tolist()
        [0.0, 1.0]
    """
    guess, labels = predicted(outputs), np.asarray(labels)
    if labels.shape != guess.shape or labels.dtype.kind not in "iub":
        raise InvalidRequest(
            f"labels have shape {labels.shape} and dtype {labels.dtype}; zero_one takes class indices of shape {guess.shape}."
        )
    classes = np.shape(outputs)[1]
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise InvalidRequest(f"labels reach from {labels.min()} to {labels.max()}, the model has classes 0 to {classes - 1}.")
    wrong = guess != labels
    if wrong.ndim > 1:
        raise InvalidRequest("zero_one takes one prediction for each example; for dense outputs pass a risk that averages them.")
    return wrong.astype(np.float64)


def agreement(outputs: np.ndarray, labels: np.ndarray) -> Float64[np.ndarray, " n"]:
    """The disagreement `[n]` with the original: 1 where any prediction of an example differs from the original's.

    Args:
        outputs: scores `[n, classes, ...]` of the file.
        labels: scores of the original on the same examples, same shape.

    Raises:
        InvalidRequest: the two have different shapes.
    """
    mine, theirs = predicted(outputs), predicted(labels)
    if mine.shape != theirs.shape:
        raise InvalidRequest(f"outputs predict {mine.shape}, the original's {theirs.shape}; both must be of the same examples.")
    return (mine != theirs).reshape(len(mine), -1).any(axis=1).astype(np.float64)


def losses_of(risk: str | Risk, outputs: np.ndarray, labels: np.ndarray | None) -> Float64[np.ndarray, " n"]:
    """The losses `[n]`, float64, of a named risk or of a user's own, after a check of what the risk returns.

    Args:
        risk: a key of `RISKS`, or a callable `(outputs, labels) -> losses [n]`.
        outputs: the model's outputs, first axis n.
        labels: what the risk compares them with; for `agreement` the original's outputs.

    Raises:
        InvalidRequest: the name is unknown, there are no labels, or the losses aren't one finite number in [0, 1] each.
    """
    if isinstance(risk, str) and risk not in RISKS:
        raise InvalidRequest(f"unknown risk '{risk}'; give one of {', '.join(RISKS)}, or a callable (outputs, labels) -> losses.")
    if labels is None:
        raise InvalidRequest("the held-out data has no labels; add them, or use the risk 'agreement'.")
    name = risk_name(risk)
    losses = np.asarray((RISKS[risk] if isinstance(risk, str) else risk)(outputs, labels))
    if losses.shape != (len(outputs),):
        raise InvalidRequest(f"risk '{name}' returned shape {losses.shape} for {len(outputs)} examples; one loss each is needed.")
    if losses.dtype.kind not in "biuf" or not np.all(np.isfinite(losses)):
        raise InvalidRequest(f"risk '{name}' returned values that aren't finite numbers; clip or smooth it.")
    losses = losses.astype(np.float64)
    if losses.size and (losses.min() < 0 or losses.max() > 1):
        raise InvalidRequest(
            f"risk '{name}' returned losses from {losses.min():g} to {losses.max():g}; rescale and clip them to [0, 1]."
        )
    return losses


def risk_name(risk: str | Risk) -> str:
    """The name that a certificate prints for a risk: the string itself, or the name of the callable."""
    return risk if isinstance(risk, str) else getattr(risk, "__name__", type(risk).__name__)


RISKS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"zero_one": zero_one, "agreement": agreement}
