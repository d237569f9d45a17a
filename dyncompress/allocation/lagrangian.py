"""The Lagrangian lower bound of a multiple-choice knapsack, and the checks and sums that all solvers share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dyncompress.errors import Infeasible, InvalidRequest
from dyncompress.types.arrays import Float, Integer

Costs = Float[np.ndarray, "R L C"]  # of every budget row, unit and option
Distortions = Float[np.ndarray, "L C"]
Budgets = Float[np.ndarray, " R"]
Options = Integer[np.ndarray, " L"]  # the index of every unit's option
ROWS = ("bytes", "macs", "seconds")
_INTEGERS_FROM = 100


def check_table(cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray) -> None:
    """Check the shapes and numbers of a table of options.

    Args:
        cost: `[R, L, C]`, finite wherever the distortion is.
        distortion: `[L, C]`, inf for an option that a unit doesn't have.
        budget: `[R]`, inf where a row isn't limited.

    Raises:
        InvalidRequest: shapes differ, a number is NaN, or a unit has no option.
    """
    if cost.ndim != 3 or distortion.shape != cost.shape[1:] or budget.shape != cost.shape[:1]:
        raise InvalidRequest(
            f"cost {cost.shape}, distortion {distortion.shape}, budget {budget.shape}: need [R, L, C], [L, C], [R]."
        )
    exists = np.isfinite(distortion)
    if np.isnan(distortion).any() or not np.isfinite(cost[:, exists]).all() or np.isnan(budget).any():
        raise InvalidRequest("the table of choices holds nan: a unit's cost or distortion could not be computed.")
    if not exists.any(axis=1).all():
        raise InvalidRequest(f"unit {int(np.argmin(exists.any(axis=1)))} of the table has no choice at all.")


@dataclass(frozen=True)
class Rows:
    """What an error says about the rows of a table of costs.

    Attributes:
        names: names of the rows.
        fixed: for each row, a cost that doesn't depend on the choices; it is added to both numbers of the message.
        hint: another remedy than a larger budget of bytes, e.g. ` or allow 4 bits in the target`.
    """

    names: Sequence[str] = ROWS
    fixed: Sequence[float] = ()
    hint: str = ""


_DEFAULT_ROWS = Rows()


def check_feasible(cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray, rows: Rows = _DEFAULT_ROWS) -> None:
    """Check for every row that the cheapest options of all units fit the budget.

    Args:
        cost, distortion, budget: as in `check_table`.
        rows: for the message.

    Raises:
        Infeasible: the budget is too small; the message gives the smallest possible cost and the budget.
    """
    for row, limit in enumerate(budget):
        smallest = math.fsum(np.where(np.isfinite(distortion), cost[row], np.inf).min(axis=1))
        if smallest > limit:
            extra = rows.fixed[row] if row < len(rows.fixed) else 0.0
            need, have = (_rounded(v, up) for v, up in _ends(smallest, limit, extra))
            raise Infeasible(
                f"the smallest plan takes {need} {rows.names[row]}, the budget is {have}; raise budget.{rows.names[row]}"
                f"{rows.hint if rows.names[row] == 'bytes' else ''}."
            )


def _rounded(value: float, up: bool) -> str:
    """Large values (bytes, MACs) as integers, rounded up or down; small ones (seconds, nats, shares) with three digits."""
    if abs(value) < _INTEGERS_FROM:
        return f"{value:.3g}"
    return f"{math.ceil(value) if up else math.floor(value):,}".replace(",", " ")


def _ends(smallest: float, limit: float, extra: float) -> tuple[tuple[float, bool], tuple[float, bool]]:
    """Both numbers of the message, and whether each is rounded up."""
    return (smallest + extra, True), (limit + extra, False)


def fits(cost: Costs, choice: Options, budget: Budgets) -> bool:
    """Whether a plan meets every budget; the sums have no rounding error."""
    units = np.arange(len(choice))
    return all(math.fsum(row[units, choice]) <= limit for row, limit in zip(cost, budget, strict=True))


def total(distortion: Distortions, choice: Options) -> float:
    """The total distortion of a plan."""
    return math.fsum(distortion[np.arange(len(choice)), choice])


def spread(distortion: Distortions) -> float:
    """The largest distortion of any plan minus the smallest; gaps are shares of it."""
    exists = np.isfinite(distortion)
    most, least = np.where(exists, distortion, -np.inf).max(axis=1), distortion.min(axis=1)
    return math.fsum(most - least)


def lower_bound(cost: Costs, distortion: Distortions, budget: Budgets) -> float:
    """A lower bound on the distortion of all plans within the budget: the maximum over multipliers m >= 0 of the Lagrangian

        L(m) = sum_l min_c (distortion[l, c] + m . cost[:, l, c]) - m . budget.

    The multipliers come from the linear relaxation, which has the same maximum because the choices of one unit are the corners of
    a simplex. L is then evaluated at them, so the bound is valid even if the relaxation isn't solved to optimality.

    Source: Fisher, "The Lagrangian relaxation method for solving integer programming problems", 1981 (weak duality).
    Cost: one linear program with L * C variables.
    """
    limited = np.isfinite(budget)
    careful = math.fsum(distortion.min(axis=1))
    if not limited.any():
        return careful
    cost, budget = cost[limited], budget[limited]
    scale = np.maximum(np.abs(budget), 1.0)
    unit, option = np.nonzero(np.isfinite(distortion))
    from scipy.optimize import linprog  # imported here, because checking a recipe doesn't need scipy's solvers
    from scipy.sparse import csr_array

    one_each = csr_array((np.ones(len(unit)), (unit, np.arange(len(unit)))), shape=(len(distortion), len(unit)))
    flat = distortion[unit, option]
    height = spread(distortion) or 1.0
    solved = linprog(
        flat / height,
        A_ub=cost[:, unit, option] / scale[:, None],
        b_ub=budget / scale,
        A_eq=one_each,
        b_eq=np.ones(len(distortion)),
    )
    if solved.x is None:
        return careful
    multipliers = np.maximum(-solved.ineqlin.marginals, 0.0) * height / scale
    priced = np.where(np.isfinite(distortion), distortion, np.inf)
    priced = priced + np.einsum("r,rlc->lc", multipliers, np.where(np.isfinite(distortion), cost, 0.0))
    return max(careful, math.fsum(priced.min(axis=1)) - math.fsum(multipliers * budget))
