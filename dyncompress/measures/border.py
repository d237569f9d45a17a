"""The border of the room: arrays come in as float64 numpy, what can't be estimated goes out as an invalid Estimate."""

from __future__ import annotations

import math

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.types import Array, Estimate, Observation, Weight

NO_TAIL = 6.0  # density exponents above this are the convention's "no power-law tail" (weightwatcher's upper flag)


def as_float64(array: Array) -> np.ndarray:
    """The array as float64 numpy, whatever its framework, device or dtype; callers must not write into it.

    Args:
        array: a numpy array, or anything with torch's `detach`, `cpu`, `double` and `numpy` (bfloat16 included).
    """
    if hasattr(array, "detach"):
        return array.detach().cpu().double().numpy()
    return np.asarray(array, dtype=np.float64)


def flat_weights(observation: Observation) -> np.ndarray:
    """All weights of the layer, `[n]` float64."""
    return as_float64(observation[Weight()]).reshape(-1)


def kernel_slices(observation: Observation) -> np.ndarray:
    """The weight as one matrix a kernel position, `[positions, out, in / groups]` float64."""
    weight = as_float64(observation[Weight()])
    if weight.ndim < 2:
        weight = weight.reshape(weight.size, 1)
    return np.moveaxis(weight.reshape(weight.shape[0], weight.shape[1], -1), -1, 0)


def unusable(n: int, why: str) -> Estimate:
    """No number could be had from `n` points, because `why`."""
    return Estimate(math.nan, math.nan, n, valid=False, notes=(why,))


def require(met: bool, measure: str, field: str, value: float | int | str, wanted: str) -> None:
    """Refuse a field of a measure that makes no sense.

    Raises:
        InvalidRequest: the condition isn't met; the message says what would be.
    """
    if not met:
        raise InvalidRequest(f"measure.{measure}: {field} is {value!r}; it must be {wanted}.")
