"""A bound on the change of the error rate that needs no labels.

Where two classifiers f and g agree, their 0-1 losses agree. Therefore |R(g) - R(f)| <= P(f(X) != g(X)) for any labels, and
Clopper-Pearson bounds the right side from unlabelled examples.

Assumes: independent examples of one law. Holds for the 0-1 loss, and for every loss in [0, 1] that depends on
the predicted label only. Every constant is computed. Where labels are available, the paired bound is far tighter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.certificates.clopper_pearson import upper_limit
from dyncompress.certificates.losses import check_losses
from dyncompress.types import Interval


@dataclass(frozen=True)
class Disagreement:
    """Bounds on the change of the error rate from disagreements (1: the predictions differ)."""

    def __call__(self, losses: np.ndarray, delta: float) -> Interval:
        """Bound the change of the error rate from disagreements `[n]` of 0 and 1; both ends hold together.

        `point` is the share of disagreements; the ends are minus and plus its upper bound.

        Raises:
            InvalidRequest: an entry is neither 0 nor 1.
        """
        losses = check_losses(losses, values=(0, 1))
        k, n = int(losses.sum()), len(losses)
        upper = upper_limit(k, n, delta)
        return Interval(k / n, -upper, upper, delta, n, "disagreement, Clopper-Pearson")
