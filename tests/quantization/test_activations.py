"""Ranges to scales: zero is exact, the range fits, and odd ranges are safe."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyncompress.errors import InvalidRequest
from dyncompress.quantization.activations import activation_scale

LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}
ends = st.floats(-(2.0**127), 2.0**127)


@given(ends, ends, st.sampled_from(["uint8", "int8"]), st.booleans(), st.booleans())
def test_every_range_is_covered_to_half_a_step(a, b, dtype, symmetric, power_of_two):
    low, high = min(a, b), max(a, b)
    scale, zero = activation_scale(low, high, dtype=dtype, symmetric=symmetric, power_of_two=power_of_two)
    first, last = LIMITS[dtype]
    assert scale == float(np.float32(scale))
    assert 0 < scale < math.inf
    assert first <= zero <= last
    slack = scale * 0.5001
    assert (first - zero) * scale <= min(low, 0) + slack
    assert (last - zero) * scale >= max(high, 0) - slack
    if symmetric:
        assert zero == {"uint8": 128, "int8": 0}[dtype]
    if power_of_two:
        assert math.frexp(scale)[0] == 0.5


def test_known_ranges():
    assert activation_scale(-1.0, 1.55, dtype="uint8") == (float(np.float32(0.01)), 100)
    assert activation_scale(-1.0, 1.55, dtype="int8") == (float(np.float32(0.01)), -28)
    assert activation_scale(2.0, 255.0) == (1.0, 0)
    assert activation_scale(-255.0, -3.0) == (1.0, 255)
    assert activation_scale(0.0, 0.0) == (1.0, 0)
    assert activation_scale(0.0, 0.0, dtype="int8", symmetric=True) == (1.0, 0)


@pytest.mark.parametrize("range_", [(1.0, 0.0), (math.nan, 1.0), (0.0, math.inf)])
def test_bad_ranges_are_refused(range_):
    with pytest.raises(InvalidRequest):
        activation_scale(*range_)
    with pytest.raises(InvalidRequest):
        activation_scale(0.0, 1.0, dtype="int4")
