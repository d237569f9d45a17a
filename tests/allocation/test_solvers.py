"""The allocators compared with enumeration, with each other, and with budgets that are met exactly."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyncompress.allocation import ALLOCATORS, Knapsack, Uniform
from dyncompress.allocation.lagrangian import fits, lower_bound, spread, total
from dyncompress.errors import Infeasible, InvalidRequest
from dyncompress.types import Allocator


def table(seed: int, rows: int, units: int, options: int) -> tuple[np.ndarray, np.ndarray]:
    """Integer costs that fall and distortions that rise with the rank, some out of order, with different numbers of options."""
    rng = np.random.default_rng(seed)
    cost = np.sort(rng.integers(1, 60, (rows, units, options)), axis=2)[:, :, ::-1].astype(float)
    distortion = np.sort(rng.exponential(1.0, (units, options)), axis=1)
    distortion[rng.random(distortion.shape) < 0.1] *= 2.0
    for unit in range(units):
        gone = rng.integers(0, options)
        distortion[unit, options - gone :], cost[:, unit, options - gone :] = np.inf, np.inf
    return cost, distortion


def enumerated(cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray) -> float:
    """The distortion of the best plan, from an enumeration of all."""
    lists = [np.flatnonzero(np.isfinite(row)) for row in distortion]
    plans = (np.array(plan) for plan in itertools.product(*lists))
    return min((total(distortion, plan) for plan in plans if fits(cost, plan, budget)), default=math.inf)


def budget_of(cost: np.ndarray, distortion: np.ndarray, share: float) -> np.ndarray:
    there = np.where(np.isfinite(distortion), cost, np.nan)
    least, most = np.nanmin(there, axis=2).sum(axis=1), np.nanmax(there, axis=2).sum(axis=1)
    return np.floor(least + share * (most - least))


@given(st.integers(0, 10_000), st.integers(1, 2), st.floats(0.0, 1.0))
def test_knapsack_is_the_best_of_all_plans(seed: int, rows: int, share: float) -> None:
    cost, distortion = table(seed, rows, 5, 4)
    budget = budget_of(cost, distortion, share)
    best = enumerated(cost, distortion, budget)
    if math.isinf(best):
        with pytest.raises(Infeasible):
            Knapsack()(cost, distortion, budget)
        return
    choice, gap = Knapsack()(cost, distortion, budget)
    assert fits(cost, choice, budget)
    assert total(distortion, choice) == pytest.approx(best, rel=1e-9, abs=1e-12)
    bound = lower_bound(cost, distortion, budget)
    assert bound <= best + 1e-9
    assert 0 <= gap <= 1
    assert gap == pytest.approx(max(0.0, best - bound) / (spread(distortion) or 1.0), abs=1e-9)


def test_a_budget_met_to_the_last_byte_is_used() -> None:
    cost = np.array([[[500_000.0, 250_001.0, 1.0]] * 4])
    distortion = np.array([[0.0, 1.0, 9.0]] * 4)
    choice, _ = Knapsack()(cost, distortion, np.array([1_000_004.0]))
    assert total(distortion, choice) == 4.0
    choice, _ = Knapsack()(cost, distortion, np.array([1_000_003.0]))
    assert fits(cost, choice, np.array([1_000_003.0]))
    assert total(distortion, choice) == enumerated(cost, distortion, np.array([1_000_003.0]))


@pytest.mark.parametrize("name", ALLOCATORS)
class TestEveryAllocator:
    def test_it_is_an_allocator_with_a_valid_plan(self, name: str) -> None:
        allocator = ALLOCATORS[name]()
        assert isinstance(allocator, Allocator)
        cost, distortion = table(3, 2, 8, 5)
        budget = budget_of(cost, distortion, 0.9)
        kept = cost.copy(), distortion.copy(), budget.copy()
        choice, gap = allocator(cost, distortion, budget)
        assert fits(cost, choice, budget) and np.isfinite(distortion[np.arange(8), choice]).all()
        assert 0 <= gap <= 1
        for before, after in zip(kept, (cost, distortion, budget), strict=True):
            np.testing.assert_array_equal(before, after)

    def test_a_larger_budget_never_harms_more(self, name: str) -> None:
        cost, distortion = table(5, 1, 12, 6)
        result = []
        for share in np.linspace(0, 1, 12):
            budget = budget_of(cost, distortion, share)
            try:
                result.append(total(distortion, ALLOCATORS[name]()(cost, distortion, budget)[0]))
            except Infeasible:
                result.append(math.inf)
        assert all(a >= b - 1e-12 for a, b in itertools.pairwise(result))
        assert math.isfinite(result[-1])

    def test_no_budget_takes_the_least_harm(self, name: str) -> None:
        cost, distortion = table(7, 1, 6, 4)
        distortion = np.sort(distortion, axis=1)
        for limits in (cost[:0], np.zeros(0)), (cost, np.array([np.inf])):
            choice, gap = ALLOCATORS[name]()(limits[0], distortion, limits[1])
            assert total(distortion, choice) == pytest.approx(distortion.min(axis=1).sum())
            assert gap == 0.0

    def test_costs_below_zero_are_savings(self, name: str) -> None:
        cost = np.array([[[10.0, 5.0], [0.0, -4.0]]])
        distortion = np.array([[0.0, 1.0], [0.0, 0.5]])
        choice, _ = ALLOCATORS[name]()(cost, distortion, np.array([6.0]))
        assert fits(cost, choice, np.array([6.0]))

    def test_too_small_a_budget_names_both_numbers(self, name: str) -> None:
        cost, distortion = np.array([[[9000.0, 3392.0]]]), np.array([[0.0, 1.0]])
        with pytest.raises(Infeasible, match=r"the smallest plan takes 3 392 bytes, the budget is 2 000; raise budget\.bytes"):
            ALLOCATORS[name]()(cost, distortion, np.array([2000.0]))

    def test_broken_tables_are_refused(self, name: str) -> None:
        cost, distortion, budget = np.ones((1, 2, 2)), np.ones((2, 2)), np.ones(1)
        for broken in (
            (cost[:, :1], distortion, budget),
            (cost, np.array([[1.0, np.nan], [1, 1]]), budget),
            (cost * np.nan, distortion, budget),
            (cost, np.array([[1.0, 1.0], [np.inf, np.inf]]), budget),
        ):
            with pytest.raises(InvalidRequest):
                ALLOCATORS[name]()(*broken)


def test_uniform_takes_one_rank_and_the_more_careful_of_a_tie() -> None:
    cost = np.array([[[4.0, 3, 2, 1], [4, 3, 2, np.inf]]])
    distortion = np.array([[0.0, 1, 1, 5], [0, 1, 1, np.inf]])
    choice, _ = Uniform()(cost, distortion, np.array([6.0]))
    assert choice.tolist() == [1, 1]
    choice, gap = Uniform()(cost, distortion, np.array([3.0]))
    assert choice.tolist() == [3, 2]
    assert gap == pytest.approx(0.0, abs=1e-9)


def test_budgets_that_exclude_each_other_are_infeasible() -> None:
    cost, distortion = np.array([[[1.0, 9.0]], [[9.0, 1.0]]]), np.array([[0.0, 1.0]])
    with pytest.raises(Infeasible, match="together"):
        Knapsack()(cost, distortion, np.array([2.0, 2.0]))


def test_a_time_limit_still_gives_a_plan_within_the_budget() -> None:
    cost, distortion = table(11, 2, 60, 12)
    budget = budget_of(cost, distortion, 0.5)
    choice, gap = Knapsack(seconds=1e-3)(cost, distortion, budget)
    assert fits(cost, choice, budget) and gap <= 0.2
    with pytest.raises(InvalidRequest, match="seconds is 0"):
        Knapsack(seconds=0)


def test_large_tables_stay_within_budget_and_close_to_the_bound() -> None:
    rng = np.random.default_rng(2)
    size = rng.integers(1_000, 200_000, 54).astype(float)
    bits = np.arange(8, 1, -1.0)
    cost = np.floor(size[:, None] * bits / 8)[None]
    distortion = size[:, None] * rng.lognormal(-10, 2, (54, 1)) * 4.0 ** (8 - bits)
    started = time.perf_counter()
    choice, gap = Knapsack()(cost, distortion, np.array([np.floor(0.5 * size.sum())]))
    assert time.perf_counter() - started < 30
    assert math.fsum(cost[0, np.arange(54), choice]) <= np.floor(0.5 * size.sum())
    assert gap < 1e-4
