"""The risk of a regression model: the mean absolute error in units of a scale, at most 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dyncompress.certificates.forms import refuse_nan
from dyncompress.errors import InvalidRequest
from dyncompress.types.arrays import Float64


@dataclass(frozen=True)
class BoundedError:
    """The mean of |output - label| / scale over all axes of an example, at most 1.

    Attributes:
        scale: the mean absolute error at which the loss reaches 1, in the unit of the outputs, larger than 0.

    Example:
        >>> BoundedError(scale=2.0)(np.array([[1.0, 2.0], [9.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])).tolist()
        [0.25, 1.0]
    """

    scale: float

    binary: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the option."""
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise InvalidRequest(f"bounded_error: scale is {self.scale:g}; give the error at which the loss reaches 1, e.g. 0.5.")

    @property
    def quantity(self) -> str:
        """What the mean of the losses is called."""
        return f"mean absolute error (in units of {self.scale:g}, at most 1 for each example)"

    def __call__(self, outputs: np.ndarray, labels: np.ndarray) -> Float64[np.ndarray, " n"]:
        """The losses `[n]` of outputs `[n, ...]` under labels of the same shape.

        Raises:
            InvalidRequest: the shapes differ, the labels aren't finite numbers, or an output is nan.
        """
        outputs, labels = np.asarray(outputs), np.asarray(labels)
        if outputs.shape != labels.shape:
            raise InvalidRequest(
                f"labels have shape {labels.shape} and the outputs {outputs.shape}; bounded_error takes labels of the same shape."
            )
        if not all(values.dtype.kind in "fiub" for values in (outputs, labels)):
            raise InvalidRequest(f"outputs are {outputs.dtype} and labels {labels.dtype}; bounded_error takes real numbers.")
        if not np.isfinite(labels).all():
            raise InvalidRequest("the labels contain nan or infinity; bounded_error takes finite ones: leave such examples out.")
        refuse_nan(outputs)
        errors = np.abs(outputs.astype(np.float64) - labels.astype(np.float64)).reshape(len(outputs), -1)
        if not errors.shape[1]:
            raise InvalidRequest(f"outputs have shape {outputs.shape}, which holds no numbers; bounded_error compares some.")
        return np.minimum(errors.mean(axis=1) / self.scale, 1.0)
