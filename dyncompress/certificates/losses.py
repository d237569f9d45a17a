"""The checks that every bound makes of its arguments."""

from __future__ import annotations

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.types.arrays import Float64


def check_delta(delta: float) -> float:
    """Return `delta` if it is a probability.

    Raises:
        InvalidRequest: it isn't strictly between 0 and 1.
    """
    if not 0 < delta < 1:
        raise InvalidRequest(f"delta is {delta}; a bound fails with this probability: give a number between 0 and 1.")
    return float(delta)


def check_counts(n: int, *counts: int) -> None:
    """Raise an error if the counts can't be of `n` examples.

    Raises:
        InvalidRequest: n is 0, a count is negative, or they add up to more than n.
    """
    if n < 1:
        raise InvalidRequest("a bound needs at least one example; there are none.")
    if min(counts) < 0 or sum(counts) > n:
        raise InvalidRequest(f"counts {counts} can't be of {n} examples; check what was counted.")


def check_losses(
    losses: np.ndarray, values: tuple[float, ...] | None = None, interval: tuple[float, float] = (0.0, 1.0)
) -> Float64[np.ndarray, " n"]:
    """The losses `[n]` as float64, after a check of their shape, dtype and range.

    Args:
        losses: one number for each example, of any real dtype.
        values: the only values allowed, e.g. `(0, 1)`; None: every value in `interval`.
        interval: smallest and largest loss allowed; ignored where `values` are given.

    Raises:
        InvalidRequest: the losses are empty, have another shape or dtype, aren't finite, or lie outside the range.
    """
    losses = np.asarray(losses)
    if losses.ndim != 1 or losses.size == 0:
        raise InvalidRequest(f"losses have shape {losses.shape}; a bound takes one number for each example, shape [n], n > 0.")
    if losses.dtype.kind not in "biuf":
        raise InvalidRequest(f"losses have dtype {losses.dtype}; a bound takes real numbers.")
    losses = losses.astype(np.float64)
    if not np.all(np.isfinite(losses)):
        first = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise InvalidRequest(f"loss {first} is {losses[first]}; a bound needs finite losses: clip them first.")
    wrong = ~np.isin(losses, values) if values is not None else (losses < interval[0]) | (losses > interval[1])
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        wanted = f"one of {values}" if values is not None else f"within [{interval[0]:g}, {interval[1]:g}]"
        raise InvalidRequest(
            f"loss {first} is {losses[first]:g}, which isn't {wanted}; rescale or clip it, or use another bound."
        )
    return losses
