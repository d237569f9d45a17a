"""The Lagrangian lower bound of a multiple-choice knapsack, and the questions every solver asks of its table first."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dyncompress.errors import Infeasible, InvalidRequest

ROWS = ("bytes", "macs", "seconds")
_COUNTED = 100


def check_table(cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray) -> None:
    """Refuse a table that no allocator can read.

    Args:
        cost: `[R, L, C]`, finite wherever the distortion is.
        distortion: `[L, C]`, inf where a unit lacks a choice.
        budget: `[R]`, inf where a row isn't limited.

    Raises:
        InvalidRequest: shapes differ, a number is nan, or a unit has no choice.
    """
    if cost.ndim != 3 or distortion.shape != cost.shape[1:] or budget.shape != cost.shape[:1]:
        raise InvalidRequest(
            f"cost {cost.shape}, distortion {distortion.shape}, budget {budget.shape}: need [R, L, C], [L, C], [R]."
        )
    there = np.isfinite(distortion)
    if np.isnan(distortion).any() or not np.isfinite(cost[:, there]).all() or np.isnan(budget).any():
        raise InvalidRequest("the table of choices holds nan: a unit's cost or distortion could not be computed.")
    if not there.any(axis=1).all():
        raise InvalidRequest(f"unit {int(np.argmin(there.any(axis=1)))} of the table has no choice at all.")


def check_feasible(
    cost: np.ndarray,
    distortion: np.ndarray,
    budget: np.ndarray,
    names: Sequence[str] = ROWS,
    fixed: Sequence[float] = (),
    hint: str = "",
) -> None:
    """Refuse a budget below what the smallest choices of all units cost, row by row.

    Args:
        cost, distortion, budget: as in `check_table`.
        names: of the rows.
        fixed: what is spent whatever is chosen, by row; it is added to both numbers of the message.
        hint: what else helps beside a larger budget of bytes, e.g. ` or allow 4 bits in the target`.

    Raises:
        Infeasible: names the smallest possible cost and the budget.
    """
    for row, limit in enumerate(budget):
        smallest = math.fsum(np.where(np.isfinite(distortion), cost[row], np.inf).min(axis=1))
        if smallest > limit:
            extra = fixed[row] if row < len(fixed) else 0.0
            need, have = (_told(v, up) for v, up in _ends(smallest, limit, extra))
            raise Infeasible(
                f"the smallest plan takes {need} {names[row]}, the budget is {have}; raise budget.{names[row]}"
                f"{hint if names[row] == 'bytes' else ''}."
            )


def _told(value: float, up: bool) -> str:
    """Bytes and MACs as whole numbers, small quantities (seconds, nats, shares) with three digits."""
    if abs(value) < _COUNTED:
        return f"{value:.3g}"
    return f"{math.ceil(value) if up else math.floor(value):,}".replace(",", " ")


def _ends(smallest: float, limit: float, extra: float) -> tuple[tuple[float, bool], tuple[float, bool]]:
    return (smallest + extra, True), (limit + extra, False)


def fits(cost: np.ndarray, choice: np.ndarray, budget: np.ndarray) -> bool:
    """Whether a plan meets every budget, the sums taken without rounding error."""
    units = np.arange(len(choice))
    return all(math.fsum(row[units, choice]) <= limit for row, limit in zip(cost, budget, strict=True))


def total(distortion: np.ndarray, choice: np.ndarray) -> float:
    """The plan's distortion in all."""
    return math.fsum(distortion[np.arange(len(choice)), choice])


def spread(distortion: np.ndarray) -> float:
    """The distortion of the boldest plan less that of the most careful one: the scale on which a gap is told."""
    there = np.isfinite(distortion)
    most, least = np.where(there, distortion, -np.inf).max(axis=1), distortion.min(axis=1)
    return math.fsum(most - least)


def lower_bound(cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray) -> float:
    """No plan within the budget has a smaller distortion: max over multipliers m >= 0 of the Lagrangian

        L(m) = sum_l min_c (distortion[l, c] + m . cost[:, l, c]) - m . budget.

    The multipliers come from the linear relaxation, whose value is the same maximum because the choices of one unit are the
    corners of a simplex; L is then evaluated at them, so the bound holds however far the relaxation was solved.

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
    from scipy.optimize import linprog  # here: a wrong recipe is refused without scipy's solvers
    from scipy.sparse import csr_array

    one_each = csr_array((np.ones(len(unit)), (unit, np.arange(len(unit)))), shape=(len(distortion), len(unit)))
    harm = distortion[unit, option]
    height = spread(distortion) or 1.0
    solved = linprog(
        harm / height,
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
