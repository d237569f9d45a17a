"""What all measures share: arrays as float64 numpy, checks of their fields, and the invalid Estimate."""

from __future__ import annotations

import math

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.types import Array, Estimate, Observation, Weight
from dyncompress.types.arrays import Float64, Shaped

NO_TAIL = 6.0  # a density exponent above this means "no power-law tail" by weightwatcher's convention


def as_float64(array: Shaped[Array, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """The array as float64 numpy, from any framework, device and dtype. It may share the memory of `array`: don't write into it.

    Args:
        array: a numpy array, or anything with torch's `detach`, `cpu`, `double` and `numpy` (bfloat16 included).
    """
    if hasattr(array, "detach"):
        return array.detach().cpu().double().numpy()
    return np.asarray(array, dtype=np.float64)


def flat_weights(observation: Observation) -> Float64[np.ndarray, " n"]:
    """All weights of the layer, `[n]` float64."""
    return as_float64(observation[Weight()]).reshape(-1)


def kernel_slices(observation: Observation) -> Float64[np.ndarray, "positions out columns"]:
    """The weight as one matrix for each kernel position, `[positions, out, in / groups]` float64."""
    weight = as_float64(observation[Weight()])
    if weight.ndim < 2:
        weight = weight.reshape(weight.size, 1)
    return np.moveaxis(weight.reshape(weight.shape[0], weight.shape[1], -1), -1, 0)


def unusable(n: int, why: str) -> Estimate:
    """An invalid Estimate without a number: `n` is how many values there were, and `why` becomes its note."""
    return Estimate(math.nan, math.nan, n, valid=False, notes=(why,))


def require(met: bool, measure: str, field: str, value: float | int | str, wanted: str) -> None:
    """Check a field of a measure.

    Args:
        met: whether the field has an allowed value.
        measure: name of the measure in `MEASURES`.
        field: name of the field.
        value: its value.
        wanted: the allowed values in words, to follow "it must be".

    Raises:
        InvalidRequest: `met` is false; the message says which values are allowed.
    """
    if not met:
        raise InvalidRequest(f"measure.{measure}: {field} is {value!r}; it must be {wanted}.")
