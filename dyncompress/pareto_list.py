"""Several budgets at once: the plans that no other plan beats or equals in everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dyncompress.errors import Infeasible
from dyncompress.pipeline import allocate
from dyncompress.recipe import Recipe
from dyncompress.recipe_checks import parse_budget
from dyncompress.types import Budget, Plan, Profile


@dataclass(frozen=True)
class Costed:
    """One line of a Pareto list.

    Attributes:
        budget: that was asked.
        bytes, macs, seconds: as the table predicts; seconds are nan where none were measured.
        distortion: predicted harm, in nats where the profile's source is one.
        plan: the plan.
    """

    budget: Budget
    bytes: float
    macs: float
    seconds: float
    distortion: float
    plan: Plan


def pareto(
    profile: Profile, budgets: Sequence[Budget | Mapping[str, float]], *, recipe: str | Path | Recipe | None = None
) -> list[Costed]:
    """The plans of several budgets, those left out that can't be met or that another beats or equals in everything.

    Args:
        profile: measured once for all of them.
        budgets: in any order.
        recipe: its allocator solves them; None: the one that the profile was measured for.

    Returns:
        in the order of the budgets; `distortion` is predicted harm, an indicator.
    """
    found: list[Costed] = []
    for budget in map(parse_budget, budgets):
        try:
            plan = allocate(profile, budget, recipe=recipe)
        except Infeasible:
            continue
        cost = plan.cost
        found.append(Costed(budget, cost["bytes"], cost["macs"], cost.get("seconds", float("nan")), plan.distortion, plan))
    points = [_point(one) for one in found]
    beaten = [any(_beats(q, p) or (q == p and j < i) for j, q in enumerate(points)) for i, p in enumerate(points)]
    return [one for one, worse in zip(found, beaten, strict=True) if not worse]


def _point(one: Costed) -> tuple[float, ...]:
    return (one.bytes, one.macs, one.seconds if one.seconds == one.seconds else 0.0, one.distortion)


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
