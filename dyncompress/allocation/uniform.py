"""The baseline: the option of the same rank for every unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.lagrangian import check_feasible, check_table, fits, lower_bound, spread, total
from dyncompress.errors import Infeasible


@dataclass(frozen=True)
class Uniform:
    """One common rank for all units: of the ranks whose plan fits the budget, the one with the smallest total distortion.

    Options are ranked as their table lists them, from careful to bold; a unit with fewer options takes its last one. Of two
    ranks with the same distortion, the lower and more careful one is chosen. Other allocators are compared with this one.

    Fails when: the budget lies between two ranks: the rest of it isn't used.

    Example:
        >>> cost, distortion = np.array([[[4.0, 2, 1], [8, 4, 2]]]), np.array([[0.0, 1, 5], [0, 2, 9]])
        >>> Uniform()(cost, distortion, np.array([7.0]))[0].tolist()
        [1, 1]
    """

    def __call__(self, cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray) -> tuple[np.ndarray, float]:
        """Choose one rank for all units.

        Args:
            cost: `[R, L, C]`, for every budget row, unit and option; inf for an option that a unit doesn't have.
            distortion: `[L, C]`; inf for an option that a unit doesn't have.
            budget: `[R]`; inf where a row isn't limited.

        Returns:
            The index of each unit's option `[L]`, and how far the plan's distortion is above a lower bound for all plans, as a
            share of the distortion's range.

        Raises:
            Infeasible: no common rank fits.
            InvalidRequest: shapes differ, a number is NaN, or a unit has no option.
        """
        check_table(cost, distortion, budget)
        check_feasible(cost, distortion, budget)
        last = distortion.shape[1] - 1 - np.argmax(np.isfinite(distortion)[:, ::-1], axis=1)
        ranks = [np.minimum(rank, last) for rank in range(distortion.shape[1])]
        fitting = [choice for choice in ranks if np.isfinite(total(distortion, choice)) and fits(cost, choice, budget)]
        if not fitting:
            raise Infeasible("no option common to all units fits the budget; raise it, or set allocator.name = 'knapsack'.")
        best = min(fitting, key=lambda choice: total(distortion, choice))
        gap = total(distortion, best) - lower_bound(cost, distortion, budget)
        return best, max(0.0, gap) / (spread(distortion) or 1.0)
