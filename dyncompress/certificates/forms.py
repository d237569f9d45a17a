"""The checks of outputs and labels that several risks make."""

from __future__ import annotations

import numpy as np

from dyncompress.errors import InvalidRequest


def refuse_nan(values: np.ndarray, what: str = "the outputs") -> None:
    """Refuse an array `[...]` of outputs or labels that holds nan; `what` names it in the message.

    Raises:
        InvalidRequest: a value is nan.
    """
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise InvalidRequest(f"{what} contain nan, which no risk can judge; check the model and the data.")


def check_class_labels(labels: np.ndarray, n: int, classes: int, risk: str) -> np.ndarray:
    """The labels `[n]`, if they are one index from 0 to `classes` - 1 for each example; `risk` is named in messages.

    Raises:
        InvalidRequest: another shape, another dtype than integers, or an index out of range.
    """
    labels = np.asarray(labels)
    if labels.shape != (n,) or labels.dtype.kind not in "iub":
        raise InvalidRequest(
            f"labels have shape {labels.shape} and dtype {labels.dtype}; {risk} takes class indices of shape {(n,)}."
        )
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise InvalidRequest(f"labels reach from {labels.min()} to {labels.max()}, the model has classes 0 to {classes - 1}.")
    return labels
