"""The common level compared with all levels, ties compared with all subsets, and properties of every level."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyncompress.allocation import CommonLevel
from dyncompress.allocation.common_level import cheapest_within
from dyncompress.allocation.lagrangian import fits
from dyncompress.errors import Infeasible, InvalidRequest


def table(seed: int, units: int = 6, options: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Costs and levels in random order, with ties, and with different numbers of options."""
    rng = np.random.default_rng(seed)
    cost, level = rng.integers(1, 60, (1, units, options)).astype(float), rng.integers(0, 9, (units, options)) / 8
    for unit in range(units):
        gone = rng.integers(0, options)
        cost[:, unit, options - gone :], level[unit, options - gone :] = np.inf, np.inf
    return cost, level


def by_definition(cost: np.ndarray, level: np.ndarray, common: float) -> np.ndarray:
    """The cheapest option that is no bolder, unit by unit; of equally cheap ones the least bold, then the first."""
    chosen = []
    for price, row in zip(cost[0], level, strict=True):
        allowed = [c for c in range(len(row)) if row[c] <= max(common, row.min())]
        chosen.append(min(allowed, key=lambda c, price=price, row=row: (price[c], row[c], c)))
    return np.array(chosen)


def spent(cost: np.ndarray, choice: np.ndarray) -> float:
    return float(cost[0, np.arange(len(choice)), choice].sum())


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_it_is_the_lowest_level_that_fits(seed: int, share: float) -> None:
    cost, level = table(seed)
    there = np.where(np.isfinite(level), cost[0], np.nan)
    least, most = np.nanmin(there, axis=1).sum(), np.nanmax(there, axis=1).sum()
    budget = np.array([np.floor(least + share * (most - least))])
    choice, gap = CommonLevel()(cost, level, budget)
    assert gap == 0.0 and fits(cost, choice, budget)
    plans = [by_definition(cost, level, t) for t in (-np.inf, *np.unique(level[np.isfinite(level)]))]
    first = next(i for i, plan in enumerate(plans) if fits(cost, plan, budget))
    before, at = plans[max(first - 1, 0)], plans[first]
    assert all(one in pair for one, *pair in zip(choice, before, at, strict=True))
    assert spent(cost, before) >= spent(cost, choice) >= spent(cost, at)
    undone = np.flatnonzero((choice != before) & (before != at))
    for unit in undone:  # no unit could have kept its option
        trial = choice.copy()
        trial[unit] = before[unit]
        assert not fits(cost, trial, budget)


@given(st.integers(0, 10_000))
def test_a_higher_level_never_costs_more(seed: int) -> None:
    cost, level = table(seed)
    price = np.where(np.isfinite(cost[0]), cost[0], 0.0)
    totals = [spent(cost, cheapest_within(price, level, t)) for t in np.linspace(-0.1, 1.1, 13)]
    assert all(a >= b for a, b in itertools.pairwise(totals))


def test_ties_put_the_first_units_back() -> None:
    cost, level = np.array([[[4.0, 1.0]] * 5]), np.array([[0.0, 0.5]] * 5)
    for budget, expected in ((20, [0] * 5), (17, [0, 0, 0, 0, 1]), (16, [0, 0, 0, 1, 1]), (11, [0, 0, 1, 1, 1]), (5, [1] * 5)):
        assert CommonLevel()(cost, level, np.array([float(budget)]))[0].tolist() == expected


def test_several_budgets_are_met_together() -> None:
    cost = np.array([[[8.0, 4, 2], [8, 4, 2]], [[6.0, 3, 1], [6, 3, 1]]])
    level = np.array([[0, 0.4, 0.8], [0, 0.5, 0.9]])
    assert CommonLevel()(cost, level, np.array([12.0, 5.0]))[0].tolist() == [2, 1]
    assert CommonLevel()(cost, level, np.array([12.0, np.inf]))[0].tolist() == [1, 0]
    crossed = np.array([[[8.0, 1.0]], [[1.0, 8.0]]])
    with pytest.raises(Infeasible, match="no common level meets all budgets together"):
        CommonLevel()(crossed, np.array([[0.0, 1.0]]), np.array([4.0, 4.0]))


def test_its_inputs_are_checked_and_left_alone() -> None:
    cost, level = table(3)
    kept = cost.copy(), level.copy()
    CommonLevel()(cost, level, np.array([200.0]))
    np.testing.assert_array_equal(kept[0], cost)
    np.testing.assert_array_equal(kept[1], level)
    with pytest.raises(InvalidRequest, match="need"):
        CommonLevel()(cost[:, :1], level, np.array([200.0]))
    with pytest.raises(Infeasible, match="the smallest plan takes"):
        CommonLevel()(cost, level, np.array([1.0]))
