"""The exact allocator: a multiple-choice knapsack with one row a budget, solved by HiGHS and checked without rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.lagrangian import check_feasible, check_table, fits, lower_bound, spread, total
from dyncompress.errors import Infeasible, InvalidRequest

OBJECTIVE = 1e4  # HiGHS stops at an absolute gap that scipy can't set; at this size it is far below what matters
SHAVE = 2e-6  # HiGHS may exceed a row by its tolerance, 1e-6


@dataclass(frozen=True)
class Knapsack:
    """Minimise the sum of distortions, one option a unit, under every budget row.

        min sum_l d[l, c_l]   with   sum_l cost[r, l, c_l] <= budget[r] for all r

    The plan is verified against the budgets by an exact sum. Where HiGHS's tolerance let it exceed one, it is solved again with
    the rows shaved by 2e-6, and repaired by the cheapest swaps if that isn't enough. The gap is told by the Lagrangian bound,
    which doesn't depend on the solver.

    Source: Sinha and Zoltners, "The multiple-choice knapsack problem", 1979; Huangfu and Hall, HiGHS, 2018.
    Cost: about a second for 500 units of 50 options (limited by `seconds`; the plan is then the best one found).

    Attributes:
        seconds: time limit of one solve.

    Example:
        >>> cost, harm = np.array([[[4.0, 2, 1], [8, 4, 2]]]), np.array([[0.0, 1, 5], [0, 2, 9]])
        >>> choice, gap = Knapsack()(cost, harm, np.array([8.0]))
        >>> choice.tolist()
        [0, 1]
    """

    seconds: float = 60.0

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise InvalidRequest(f"allocator.knapsack: seconds is {self.seconds}; a positive number is needed.")

    def __call__(self, cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray) -> tuple[np.ndarray, float]:
        """Cost `[R, L, C]`, distortion `[L, C]`, budget `[R]` -> choice `[L]`, gap as a share of the distortion's range.

        Raises:
            Infeasible: no plan fits.
        """
        check_table(cost, distortion, budget)
        check_feasible(cost, distortion, budget)
        careful = distortion.argmin(axis=1)
        height = spread(distortion)
        if fits(cost, careful, budget):
            return _improved(cost, distortion, budget, careful), 0.0
        bound = lower_bound(cost, distortion, budget)
        choice = self._solved(cost, distortion, budget, bound)
        gap = total(distortion, choice) - bound
        return choice, max(0.0, gap) / (height or 1.0)

    def _solved(self, cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray, bound: float) -> np.ndarray:
        """HiGHS, verified; then shaved; then repaired."""
        found = None
        for shave in (0.0, SHAVE):
            shaved = self._highs(cost, distortion, budget, bound, shave)
            found = shaved if shaved is not None else found
            if shaved is not None and fits(cost, shaved, budget):
                return _improved(cost, distortion, budget, shaved)
        if found is None:  # out of time before any plan was found: start from the cheapest options
            found = _cheapest(cost, distortion, budget)
        repaired = _repaired(cost, distortion, budget, found)
        if repaired is None:
            raise Infeasible("no plan meets all budgets together, though each alone can be met; raise one of them.")
        return _improved(cost, distortion, budget, repaired)

    def _highs(
        self, cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray, bound: float, shave: float
    ) -> np.ndarray | None:
        unit, option = np.nonzero(np.isfinite(distortion))
        limited = np.isfinite(budget)
        scale = np.maximum(np.abs(budget[limited]), 1.0)
        harm = distortion[unit, option] - distortion.min(axis=1)[unit]
        above = bound - math.fsum(distortion.min(axis=1))
        harm = harm * (OBJECTIVE / max(above, 1e-6 * spread(distortion), 1e-300))
        from scipy.optimize import Bounds, milp  # here: a wrong recipe is refused without scipy's solvers
        from scipy.sparse import csr_matrix, vstack  # arrays may index by int64, which milp refuses before scipy 1.15

        rows = csr_matrix(cost[limited][:, unit, option] / scale[:, None])
        one_each = csr_matrix((np.ones(len(unit)), (unit, np.arange(len(unit)))), shape=(len(distortion), len(unit)))
        upper = np.concatenate([budget[limited] / scale - shave, np.ones(len(distortion))])
        lower = np.concatenate([np.full(int(limited.sum()), -np.inf), np.ones(len(distortion))])
        result = milp(
            harm,
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


def _cheapest(cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray) -> np.ndarray:
    """The option of each unit with the smallest cost, the rows weighed by their budgets."""
    limited = np.isfinite(budget)
    weighed = (cost[limited] / np.maximum(np.abs(budget[limited]), 1.0)[:, None, None]).sum(axis=0)
    return np.where(np.isfinite(distortion), weighed, np.inf).argmin(axis=1)


def _swaps(cost: np.ndarray, distortion: np.ndarray, choice: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What changing one unit's option changes: distortion `[L, C]`, cost `[R, L, C]`, and the present totals `[R]`."""
    units = np.arange(len(choice))
    there = np.isfinite(distortion)
    now = cost[:, units, choice]
    harm = np.where(there, distortion, np.inf) - distortion[units, choice][:, None]
    return harm, np.where(there, cost, np.inf) - now[:, :, None], np.array([math.fsum(row) for row in now])


def _repaired(cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray, choice: np.ndarray) -> np.ndarray | None:
    """Swap options, the least harm for the excess removed first, until every budget is met; None where no swap helps."""
    choice, scale = choice.copy(), np.maximum(np.abs(np.where(np.isfinite(budget), budget, 1.0)), 1.0)
    while not fits(cost, choice, budget):
        harm, change, totals = _swaps(cost, distortion, choice)
        excess = (np.maximum(totals - budget, 0.0) / scale).sum()
        after = np.maximum(totals[:, None, None] + change - budget[:, None, None], 0.0) / scale[:, None, None]
        removed = excess - after.sum(axis=0)
        price = np.where(removed > 0, harm / np.maximum(removed, 1e-300), np.inf)
        if not np.isfinite(price).any():
            return None
        unit, option = np.unravel_index(price.argmin(), price.shape)
        choice[unit] = option
    return choice


def _improved(cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray, choice: np.ndarray) -> np.ndarray:
    """Take every single swap that lowers the distortion within the budget, or the cost at the same distortion."""
    choice = choice.copy()
    while True:
        harm, change, totals = _swaps(cost, distortion, choice)
        allowed = (totals[:, None, None] + change <= budget[:, None, None]).all(axis=0)
        cheaper = (change <= 0).all(axis=0) & (change < 0).any(axis=0)
        gain = np.where(allowed & ((harm < 0) | ((harm == 0) & cheaper)), harm, np.inf)
        if not np.isfinite(gain).any():
            return choice
        unit, option = np.unravel_index(gain.argmin(), gain.shape)
        trial = choice.copy()
        trial[unit] = option
        if not fits(cost, trial, budget):
            return choice
        choice = trial
