"""The risk of a retrieval model: one minus the reciprocal of the right item's rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dyncompress.certificates.forms import check_class_labels, refuse_nan
from dyncompress.errors import InvalidRequest
from dyncompress.types.arrays import Float64


@dataclass(frozen=True)
class ReciprocalRank:
    """1 - 1 / rank of the right item among the scores `[n, items]`, and 1 where the rank is larger than `top`.

    The rank is the number of items whose score is at least the right item's, itself included, so that ties count against the
    model. The label `[n]` is the index of the right item.

    Attributes:
        top: the largest rank that counts, 1 or more.

    Example:
        >>> ReciprocalRank()(np.array([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5]]), np.array([0, 2])).tolist()
        [0.0, 0.5]
    """

    top: int = 10

    binary: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the option."""
        if self.top < 1:
            raise InvalidRequest(f"reciprocal_rank: top is {self.top}; give the largest rank that counts, 1 or more.")

    @property
    def quantity(self) -> str:
        """What the mean of the losses is called."""
        return f"retrieval error (1 - reciprocal rank, 1 beyond rank {self.top})"

    def __call__(self, outputs: np.ndarray, labels: np.ndarray) -> Float64[np.ndarray, " n"]:
        """The losses `[n]` of scores `[n, items]` under the labels `[n]`.

        Raises:
            InvalidRequest: outputs aren't such scores, a score is nan, or labels aren't one item's index for each example.
        """
        scores = np.asarray(outputs)
        if scores.ndim != 2 or scores.shape[1] < 2:
            raise InvalidRequest(f"outputs have shape {scores.shape}; reciprocal_rank takes scores [n, items], 2 items or more.")
        refuse_nan(scores)
        labels = check_class_labels(labels, len(scores), scores.shape[1], "reciprocal_rank").astype(np.int64)
        right = np.take_along_axis(scores, labels[:, None], axis=1)
        rank = (scores >= right).sum(axis=1)
        return np.where(rank <= self.top, 1 - 1 / rank, 1.0)
