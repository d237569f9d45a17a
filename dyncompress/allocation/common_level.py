"""One level for all units: each takes the cheapest option that is no bolder than it, and the level rises until the plan fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.lagrangian import check_feasible, check_table, fits
from dyncompress.errors import Infeasible


@dataclass(frozen=True)
class CommonLevel:
    """The lowest level t whose plan fits, where t allows each unit the options of boldness at most t.

        c_l(t) = the cheapest option with d[l, c] <= t (the least bold one where there is none),
        t = the lowest level of the table with  sum_l cost[r, l, c_l(t)] <= budget[r]  for all r

    A threshold on scores, a common error, a share of zeros that follows from one number: each is such a level, so every rule
    is solved exactly, without searching for its number, whatever options the table holds. Of the units that only the last
    step made bolder, those at the front are put back as long as the plan fits: ties don't leave the budget unused.

    Cost: O(L C log(L C)) for one row.
    Fails when: never for one row. With several, cost is the sum of the rows' shares of their budgets; the level is then one that
    fits while the next lower one doesn't.

    Example:
        >>> cost, level = np.array([[[4.0, 2, 1], [8, 4, 2]]]), np.array([[0.0, 0.5, 0.9], [0, 0.4, 0.8]])
        >>> CommonLevel()(cost, level, np.array([6.0]))[0].tolist()
        [1, 1]
    """

    def __call__(self, cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray) -> tuple[np.ndarray, float]:
        """Cost `[R, L, C]`, level `[L, C]`, budget `[R]` -> choice `[L]`, and 0: a level isn't a sum that a gap could refer to.

        Raises:
            Infeasible: no level fits.
        """
        check_table(cost, distortion, budget)
        check_feasible(cost, distortion, budget)
        price = _price(cost, budget)
        levels = np.unique(distortion[np.isfinite(distortion)])
        below, at = -1, len(levels) - 1  # -1: every unit at its least bold option
        if fits(cost, taken(price, distortion, -np.inf), budget):
            return taken(price, distortion, -np.inf), 0.0
        if not fits(cost, taken(price, distortion, levels[at]), budget):
            raise Infeasible("no common level meets all budgets together; raise one of them, or set allocator.name = 'knapsack'.")
        while at - below > 1:
            middle = (below + at) // 2
            inside = fits(cost, taken(price, distortion, levels[middle]), budget)
            below, at = (below, middle) if inside else (middle, at)
        before = taken(price, distortion, levels[below] if below >= 0 else -np.inf)
        return _put_back(cost, taken(price, distortion, levels[at]), before, budget), 0.0


def taken(price: np.ndarray, level: np.ndarray, common: float) -> np.ndarray:
    """The cheapest option of each unit that is no bolder than the common level, of equally cheap ones the least bold, `[L]`."""
    least = level.min(axis=1, keepdims=True)
    allowed = level <= np.maximum(least, common)
    cheapest = np.where(allowed, price, np.inf).min(axis=1, keepdims=True)
    return np.where(allowed & (price == cheapest), level, np.inf).argmin(axis=1)


def _price(cost: np.ndarray, budget: np.ndarray) -> np.ndarray:
    """Costs as shares of their budgets, summed over the rows that are limited, `[L, C]`."""
    limited = np.isfinite(budget)
    scale = np.maximum(np.abs(budget[limited]), 1.0)[:, None, None]
    return np.where(np.isfinite(cost[limited]), cost[limited] / scale, 0.0).sum(axis=0)


def _put_back(cost: np.ndarray, choice: np.ndarray, before: np.ndarray, budget: np.ndarray) -> np.ndarray:
    """The plan with the first units of the last step as they were before it, as many as fit."""
    choice = choice.copy()
    for unit in np.flatnonzero(choice != before):
        trial = choice.copy()
        trial[unit] = before[unit]
        if fits(cost, trial, budget):
            choice = trial
    return choice
