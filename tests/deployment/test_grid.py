from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyncompress.deployment.grid import activation_grid
from dyncompress.errors import InvalidRequest
from tests.deployment.graphs import TARGET

GRIDS = {
    "u8": TARGET,
    "s8": replace(TARGET, activation_dtype="int8"),
    "symmetric u8": replace(TARGET, activation_symmetric=True),
    "symmetric s8": replace(TARGET, activation_dtype="int8", activation_symmetric=True),
    "power of two": replace(TARGET, power_of_two_scales=True),
}
FINITE = st.floats(-1e4, 1e4, allow_subnormal=False)


@pytest.mark.parametrize("name", GRIDS)
@given(a=FINITE, b=FINITE)
def test_zero_is_exact_and_the_range_is_covered_to_half_a_step(name: str, a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    grid = activation_grid(low, high, GRIDS[name])
    assert grid.codes(np.zeros((), np.float32)) == grid.zero_point
    ends = np.array([low, high, 0], np.float32)
    back = (grid.codes(ends).astype(np.int64) - grid.zero_point) * np.float64(grid.scale)
    assert (np.abs(back - ends) <= 0.5001 * grid.scale + 1e-6 * np.abs(ends)).all()


def test_closed_forms() -> None:
    grid = activation_grid(0, 2.55, TARGET)
    assert grid.zero_point == 0 and grid.scale == np.float32(0.01) and grid.lowest == 0
    assert activation_grid(-1, 1, GRIDS["symmetric s8"]).zero_point == 0
    assert activation_grid(-1, 1, GRIDS["symmetric u8"]).zero_point == 128
    assert activation_grid(-3, 100, GRIDS["power of two"]).scale == 0.5
    assert activation_grid(0, 5, GRIDS["s8"]).zero_point == -128


@pytest.mark.parametrize("ends", [(np.nan, 1), (0, np.inf), (2, 1)])
def test_broken_ranges_are_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(InvalidRequest, match="'v'"):
        activation_grid(*ends, TARGET, "v")
