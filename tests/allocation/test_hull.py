"""The hull of cost against distortion, compared with every combination of options."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dyncompress.allocation.hull import hull

TABLES = st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=4), min_size=1, max_size=4)


@given(TABLES)
def test_every_corner_is_the_best_combination_at_its_cost(table: list[list[tuple[int, int]]]) -> None:
    width = max(map(len, table))
    padded = np.array([[*options, *[(np.inf, np.inf)] * (width - len(options))] for options in table], dtype=float)
    every = [tuple(map(sum, zip(*chosen, strict=True))) for chosen in product(*table)]
    result = hull(padded[..., 0], padded[..., 1], 1_000)
    for cost, distortion in result:
        assert (cost, distortion) in every
        assert distortion == min(d for c, d in every if c <= cost)
    assert result[-1][1] == min(d for _, d in every)
    assert result[0][0] == min(c for c, _ in every)
    costs, distortions = zip(*result, strict=True)
    assert list(costs) == sorted(set(costs)) and list(distortions) == sorted(set(distortions), reverse=True)


def test_few_corners_are_spread_over_the_costs() -> None:
    cost = np.tile(np.arange(8.0, 0, -1), (50, 1))
    result = hull(cost, np.tile(4.0 ** np.arange(8), (50, 1)), 10)
    assert 8 <= len(result) <= 10
    assert result[0][0] == 50 and result[-1][0] == 400
