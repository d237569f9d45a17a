"""One level of boldness for all units: each takes its cheapest option at or below it, and the level rises until the plan fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.lagrangian import Budgets, Costs, Distortions, Options, check_feasible, check_table, fits
from dyncompress.errors import Infeasible


@dataclass(frozen=True)
class CommonLevel:
    """The lowest level t whose plan fits the budget; at level t, each unit may take the options of boldness d at most t.

        c_l(t) = the cheapest option with d[l, c] <= t (the least bold one where there is none),
        t = the lowest level of the table with  sum_l cost[r, l, c_l(t)] <= budget[r]  for all r

    A threshold on scores, a common error, and a share of zeros that depends on one number are such levels. So every rule is
    solved exactly for any options, without a search for its number. Of the units that only the last step made bolder, the first
    ones return to their options before it as long as the plan fits, so that ties don't leave the budget unused.

    Cost: O(L C log(L C)) for one row.
    Fails when: there are several rows. Then the cost of an option is the sum of its shares of all budgets, and the level fits
    while the next lower one doesn't, but it may not be the lowest that fits.

    Example:
        >>> cost, level = np.array([[[4.0, 2, 1], [8, 4, 2]]]), np.array([[0.0, 0.5, 0.9], [0, 0.4, 0.8]])
        >>> CommonLevel()(cost, level, np.array([6.0]))[0].tolist()
        [1, 1]
    """

    def __call__(self, cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray) -> tuple[np.ndarray, float]:
        """Choose the options at the lowest common level that fits.

        Args:
            cost: `[R, L, C]`, for every budget row, unit and option; inf for an option that a unit doesn't have.
            distortion: `[L, C]`, the boldness of every option; inf for an option that a unit doesn't have.
            budget: `[R]`; inf where a row isn't limited.

        Returns:
            The index of each unit's option `[L]`, and 0.0 in place of a gap, which levels don't have.

        Raises:
            Infeasible: no level fits.
            InvalidRequest: shapes differ, a number is NaN, or a unit has no option.
        """
        check_table(cost, distortion, budget)
        check_feasible(cost, distortion, budget)
        price = _price(cost, budget)
        levels = np.unique(distortion[np.isfinite(distortion)])
        below, at = -1, len(levels) - 1  # -1: every unit takes its least bold option
        if fits(cost, cheapest_within(price, distortion, -np.inf), budget):
            return cheapest_within(price, distortion, -np.inf), 0.0
        if not fits(cost, cheapest_within(price, distortion, levels[at]), budget):
            raise Infeasible("no common level meets all budgets together; raise one of them, or set allocator.name = 'knapsack'.")
        while at - below > 1:
            middle = (below + at) // 2
            inside = fits(cost, cheapest_within(price, distortion, levels[middle]), budget)
            below, at = (below, middle) if inside else (middle, at)
        before = cheapest_within(price, distortion, levels[below] if below >= 0 else -np.inf)
        return _put_back(cost, cheapest_within(price, distortion, levels[at]), before, budget), 0.0


def cheapest_within(price: Distortions, level: Distortions, common: float) -> Options:
    """The cheapest option of each unit at or below the common level, `[L]`; of equally cheap ones, the least bold."""
    least = level.min(axis=1, keepdims=True)
    allowed = level <= np.maximum(least, common)
    cheapest = np.where(allowed, price, np.inf).min(axis=1, keepdims=True)
    return np.where(allowed & (price == cheapest), level, np.inf).argmin(axis=1)


def _price(cost: Costs, budget: Budgets) -> Distortions:
    """Costs as shares of their budgets, summed over the rows with a limit, `[L, C]`."""
    limited = np.isfinite(budget)
    scale = np.maximum(np.abs(budget[limited]), 1.0)[:, None, None]
    return np.where(np.isfinite(cost[limited]), cost[limited] / scale, 0.0).sum(axis=0)


def _put_back(
    cost: Costs,
    choice: Options,
    before: Options,
    budget: Budgets,
) -> Options:
    """The plan in which as many of the first units as fit have their option `before` the last step."""
    choice = choice.copy()
    for unit in np.flatnonzero(choice != before):
        trial = choice.copy()
        trial[unit] = before[unit]
        if fits(cost, trial, budget):
            choice = trial
    return choice
