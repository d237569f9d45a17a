"""Several budgets at once: the plans that no other plan beats or equals in every cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dyncompress.allocation.cost import DISTORTION, least
from dyncompress.errors import Infeasible, InvalidRequest
from dyncompress.pipeline.verbs import allocate
from dyncompress.recipe.checks import parse_budget
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import Budget, Profile
from dyncompress.types.pareto import Costed, ParetoList

ROWS = ("bytes", "macs", "seconds", "distortion")  # what budgets may be spread over
BUDGETS = 12  # of a spread, from the smallest plan to the most careful one


def pareto(
    profile: Profile,
    budgets: Sequence[Budget | Mapping[str, float]] | None = None,
    *,
    of: str = "",
    recipe: str | Path | Recipe | None = None,
) -> ParetoList:
    """The plans of several budgets, without budgets that can't be met and plans that another beats or equals in every cost.

    Args:
        profile: measured once for all of them.
        budgets: in any order; None: twelve, spread over what the profile's options can reach.
        of: the cost that the spread is of and that is shown first: `bytes`, `macs`, `seconds` or `distortion`; empty: that of
            the first budget, else `bytes`.
        recipe: its allocator solves them; None: the one that the profile was measured for.

    Returns:
        the plans in the order of the budgets; `distortion` is a prediction.

    Raises:
        InvalidRequest: `of` is no such cost, or the profile holds no times.
        Infeasible: none of the budgets can be met.

    Example:
        >>> import dyncompress, torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
        >>> x = torch.randn(64, 64)
        >>> profile = dyncompress.measure(network, "edge-int8", target="onnxruntime-x86-vnni", calibration=x)
        >>> plans = dyncompress.pareto(profile, [{"bytes": 0.4}, {"bytes": 0.5}])
        >>> [one.bytes <= one.budget.bytes * profile.float_bytes for one in plans]
        [True, True]
    """
    asked = [parse_budget(budget) for budget in budgets or ()]
    row = of or next((name for budget in asked for name in ROWS if getattr(budget, name) is not None), "bytes")
    solved: list[Costed] = []
    for budget in asked or spread(profile, row):
        try:
            plan = allocate(profile, budget, recipe=recipe)
        except Infeasible:
            continue
        cost = plan.cost
        solved.append(Costed(budget, cost["bytes"], cost["macs"], cost.get("seconds", math.nan), plan.distortion, plan))
    if not solved:
        raise _out_of_reach(profile, row)
    points = [_point(one) for one in solved]
    beaten = [any(_beats(q, p) or (q == p and j < i) for j, q in enumerate(points)) for i, p in enumerate(points)]
    kept = tuple(one for one, worse in zip(solved, beaten, strict=True) if not worse)
    original = {"macs": profile.macs, "seconds": profile.seconds}.get(row, profile.float_bytes)
    return ParetoList(kept, row, float(original) or math.nan, profile.unit)


def _out_of_reach(profile: Profile, row: str) -> Infeasible:
    """The error that states what the smallest plan takes."""
    smallest = least(profile, row) + _fixed(profile, row)
    amount = {"seconds": f"{1e3 * smallest:.4g} ms", DISTORTION: f"{smallest:.3g} in distortion"}.get(
        row, f"{smallest:,.0f} {row}"
    )
    return Infeasible(f"none of the budgets can be met: the smallest plan takes {amount}; ask for more.")


def _fixed(profile: Profile, row: str) -> float:
    """The cost in a row that no choice changes."""
    alone = sum(layer.macs for layer in profile.layers if layer.name not in profile.table)
    return {"bytes": profile.fixed_bytes, "macs": alone, "seconds": profile.whole_seconds, DISTORTION: 0.0}[row]


def spread(profile: Profile, row: str, count: int = BUDGETS) -> list[Budget]:
    """Budgets of one cost, from what the smallest plan takes to what the most careful one does.

    Distortions are spread by equal factors, costs by equal steps.

    Raises:
        InvalidRequest: there is no such cost, or the profile holds no times.
    """
    if row not in ROWS:
        raise InvalidRequest(f"budgets are of {', '.join(ROWS)}; '{row}' is none of them.")
    if row == "seconds" and not profile.seconds:
        raise InvalidRequest("the profile holds no times; measure with a recipe whose [channels] say latency = true.")
    finite = [[o for o in options if math.isfinite(o.distortion)] for options in profile.table.values()]
    most = math.fsum(max((getattr(o, row) for o in options), default=0.0) for options in finite)
    low, high = sorted((least(profile, row), most))
    if row == DISTORTION:
        low = max(low, 1e-6 * high, 1e-12)
        return [Budget(distortion=float(value)) for value in np.geomspace(low * (1 + 1e-9), max(high, low), count)]
    values = _fixed(profile, row) + np.linspace(low + 1e-9 * max(1.0, abs(low)), high, count)
    if row == "seconds":  # budgets below 1 are shares of the original's
        return [Budget(seconds=min(float(value) / profile.seconds, 1 - 1e-9)) for value in values]
    return [Budget(**{row: float(value)}) for value in values if value >= 1]


def _point(one: Costed) -> tuple[float, ...]:
    return (one.bytes, one.macs, one.seconds if one.seconds == one.seconds else 0.0, one.distortion)


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
