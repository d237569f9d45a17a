"""The exact allocator: a multiple-choice knapsack with a row for each budget, solved by HiGHS and checked by exact sums."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.lagrangian import (
    Budgets,
    Costs,
    Distortions,
    Options,
    check_feasible,
    check_table,
    fits,
    lower_bound,
    spread,
    total,
)
from dyncompress.errors import Infeasible, InvalidRequest

OBJECTIVE = 1e4  # scale of the objective; HiGHS stops at an absolute gap that scipy can't set, and which is negligible here
MARGIN = 2e-6  # HiGHS may exceed a row by its tolerance, 1e-6


@dataclass(frozen=True)
class Knapsack:
    """Minimise the sum of distortions, with one option for each unit, within every budget row.

        min sum_l d[l, c_l]   with   sum_l cost[r, l, c_l] <= budget[r] for all r

    The plan is verified against the budgets by an exact sum. If it exceeds one within HiGHS's tolerance, it is solved again with
    budgets smaller by 2e-6, and then repaired by the cheapest swaps if necessary. The gap refers to the Lagrangian bound, which
    doesn't depend on the solver.

    Source: Sinha and Zoltners, "The multiple-choice knapsack problem", 1979; Huangfu and Hall, HiGHS, 2018.
    Cost: about a second for 500 units of 50 options (at most `seconds`; then the plan is the best one so far).

    Attributes:
        seconds: time limit of one solution, above 0.

    Example:
        >>> cost, distortion = np.array([[[4.0, 2, 1], [8, 4, 2]]]), np.array([[0.0, 1, 5], [0, 2, 9]])
        >>> choice, gap = Knapsack()(cost, distortion, np.array([8.0]))
        >>> choice.tolist()
        [0, 1]
    """

    seconds: float = 60.0

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise InvalidRequest(f"allocator.knapsack: seconds is {self.seconds}; a positive number is needed.")

    def __call__(self, cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray) -> tuple[np.ndarray, float]:
        """Choose the plan of least distortion within the budget.

        Args:
            cost: `[R, L, C]`, for every budget row, unit and option; inf for an option that a unit doesn't have.
            distortion: `[L, C]`; inf for an option that a unit doesn't have.
            budget: `[R]`; inf where a row isn't limited.

        Returns:
            The index of each unit's option `[L]`, and how far the plan's distortion is above a lower bound for all plans, as a
            share of the distortion's range.

        Raises:
            Infeasible: no plan fits.
            InvalidRequest: shapes differ, a number is NaN, or a unit has no option.
        """
        check_table(cost, distortion, budget)
        check_feasible(cost, distortion, budget)
        careful = distortion.argmin(axis=1)
        height = spread(distortion)
        if fits(cost, careful, budget):
            return _improved(cost, distortion, budget, careful), 0.0
        bound = lower_bound(cost, distortion, budget)
        choice = self._solve(cost, distortion, budget, bound)
        gap = total(distortion, choice) - bound
        return choice, max(0.0, gap) / (height or 1.0)

    def _solve(self, cost: Costs, distortion: Distortions, budget: Budgets, bound: float) -> Options:
        """The plan of HiGHS if it fits exactly, else that for smaller budgets, else the repaired plan."""
        choice = None
        for margin in (0.0, MARGIN):
            solution = self._highs(cost, distortion, budget, bound, margin)
            choice = solution if solution is not None else choice
            if solution is not None and fits(cost, solution, budget):
                return _improved(cost, distortion, budget, solution)
        if choice is None:  # HiGHS has no plan within the time limit: start from the cheapest options
            choice = _cheapest(cost, distortion, budget)
        repaired = _repaired(cost, distortion, budget, choice)
        if repaired is None:
            raise Infeasible("no plan meets all budgets together, though each alone can be met; raise one of them.")
        return _improved(cost, distortion, budget, repaired)

    def _highs(self, cost: Costs, distortion: Distortions, budget: Budgets, bound: float, margin: float) -> Options | None:
        """The plan of HiGHS for budgets smaller by `margin`; None where it has none within the time limit."""
        unit, option = np.nonzero(np.isfinite(distortion))
        limited = np.isfinite(budget)
        scale = np.maximum(np.abs(budget[limited]), 1.0)
        objective = distortion[unit, option] - distortion.min(axis=1)[unit]
        above = bound - math.fsum(distortion.min(axis=1))
        objective = objective * (OBJECTIVE / max(above, 1e-6 * spread(distortion), 1e-300))
        from scipy.optimize import Bounds, milp  # imported here, because checking a recipe doesn't need scipy's solvers
        from scipy.sparse import csr_matrix, vstack  # arrays may index by int64, which milp refuses before scipy 1.15

        rows = csr_matrix(cost[limited][:, unit, option] / scale[:, None])
        one_each = csr_matrix((np.ones(len(unit)), (unit, np.arange(len(unit)))), shape=(len(distortion), len(unit)))
        upper = np.concatenate([budget[limited] / scale - margin, np.ones(len(distortion))])
        lower = np.concatenate([np.full(int(limited.sum()), -np.inf), np.ones(len(distortion))])
        result = milp(
            objective,
            integrality=np.ones(len(unit)),
            bounds=Bounds(0, 1),
            constraints=(vstack([rows, one_each]), lower, upper),
            options={"time_limit": self.seconds, "mip_rel_gap": 1e-9},
        )
        if result.x is None:
            return None
        share = np.zeros(distortion.shape)
        share[unit, option] = result.x
        return share.argmax(axis=1)


def _cheapest(cost: Costs, distortion: Distortions, budget: Budgets) -> Options:
    """The cheapest option of each unit, its cost being the sum of its shares of all budgets."""
    limited = np.isfinite(budget)
    shares = (cost[limited] / np.maximum(np.abs(budget[limited]), 1.0)[:, None, None]).sum(axis=0)
    return np.where(np.isfinite(distortion), shares, np.inf).argmin(axis=1)


def _swaps(cost: Costs, distortion: Distortions, choice: Options) -> tuple[Distortions, Costs, Budgets]:
    """The effect of changing one unit's option, for all units and options.

    Returns:
        The change of the distortion `[L, C]`, the change of the costs `[R, L, C]`, and the present total costs `[R]`.
    """
    units = np.arange(len(choice))
    exists = np.isfinite(distortion)
    now = cost[:, units, choice]
    added = np.where(exists, distortion, np.inf) - distortion[units, choice][:, None]
    return added, np.where(exists, cost, np.inf) - now[:, :, None], np.array([math.fsum(row) for row in now])


def _repaired(cost: Costs, distortion: Distortions, budget: Budgets, choice: Options) -> Options | None:
    """Swap options until every budget is met, each time the one that adds least distortion for the excess it removes.

    Returns:
        The plan, or None where no swap removes excess.
    """
    choice, scale = choice.copy(), np.maximum(np.abs(np.where(np.isfinite(budget), budget, 1.0)), 1.0)
    while not fits(cost, choice, budget):
        added, change, totals = _swaps(cost, distortion, choice)
        excess = (np.maximum(totals - budget, 0.0) / scale).sum()
        after = np.maximum(totals[:, None, None] + change - budget[:, None, None], 0.0) / scale[:, None, None]
        removed = excess - after.sum(axis=0)
        price = np.where(removed > 0, added / np.maximum(removed, 1e-300), np.inf)
        if not np.isfinite(price).any():
            return None
        unit, option = np.unravel_index(price.argmin(), price.shape)
        choice[unit] = option
    return choice


def _improved(cost: Costs, distortion: Distortions, budget: Budgets, choice: Options) -> Options:
    """Make every swap of one option that lowers the distortion within the budget, or the cost at the same distortion."""
    choice = choice.copy()
    while True:
        added, change, totals = _swaps(cost, distortion, choice)
        allowed = (totals[:, None, None] + change <= budget[:, None, None]).all(axis=0)
        cheaper = (change <= 0).all(axis=0) & (change < 0).any(axis=0)
        gain = np.where(allowed & ((added < 0) | ((added == 0) & cheaper)), added, np.inf)
        if not np.isfinite(gain).any():
            return choice
        unit, option = np.unravel_index(gain.argmin(), gain.shape)
        trial = choice.copy()
        trial[unit] = option
        if not fits(cost, trial, budget):
            return choice
        choice = trial
