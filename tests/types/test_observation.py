"""Values that measures exchange."""

from __future__ import annotations

import copy

from dyncompress.types import Estimate


def test_an_estimate_without_a_standard_error_equals_its_copy() -> None:
    one, other = (Estimate(2.0, float("nan"), 5, notes=("no standard error",)) for _ in range(2))
    assert one == other and hash(one) == hash(other) and one == copy.deepcopy(one)
    assert one != Estimate(2.0, 0.1, 5, notes=("no standard error",)) and one != "2.0"
