"""Plans whose measured costs keep the budgets: a plan that costs more than was predicted is solved again.

The table of a profile adds up what each unit saves alone. Widths of neighbouring layers multiply, and latencies don't add. So the
structure that a plan asks for is built and measured. Where it takes more than was asked for, the limit of the table moves and the
plan is solved again; where no plan keeps the budget, the error states what was reached, in the units of the budget. Costs that
only the finished file has are measured on it (`budget_search`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from dyncompress.allocation.plan import allocated, floor_of, limits_of, whole_budget
from dyncompress.errors import Infeasible
from dyncompress.pipeline.application.structured_pruning import structural_choices
from dyncompress.pipeline.profiling.latency import seconds_of
from dyncompress.pipeline.task import Task
from dyncompress.recipe.checks import parse_budget
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import BLOCKS, CHANNELS, Budget, Choice, Drop, Keep, Model, Plan, Profile

STRUCTURES = 12  # structures that are tried for a budget of multiply-accumulates
TIMED = 3  # structures that are timed for a budget of seconds: a measurement takes longer, and varies
NOISE = 0.02  # of a time: what two measurements of one file may differ by


# ---------------------------------------------------------------- structure
def plans_for_budgets(task: Task, profile: Profile) -> list[Plan]:
    """The plans of a recipe's budgets, from cautious to bold; budgets that can't be met are left out unless all are.

    Raises:
        Infeasible: none of the budgets can be met.
    """
    plans: list[Plan] = []
    for budget in task.recipe.budgets():
        try:
            plan = replan_with_measured_costs(task, profile, budget)
        except Infeasible:
            if not plans:
                raise
            break
        if not plans or plan.asked != plans[-1].asked:
            plans.append(plan)
    return plans


def replan_with_measured_costs(task: Task, profile: Profile, budget: Budget, limits: Mapping[str, float] | None = None) -> Plan:
    """The plan of a budget whose structure, as measured, takes no more multiply-accumulates and seconds than asked for.

    Args:
        task: the allocator of its recipe solves the table; times are measured for its target.
        profile: of its model.
        budget: checked or not.
        limits: of the table to start from; None: the budget's.

    Returns:
        the plan; `cost` holds `realised_macs` and `realised_seconds` where its structure changes.

    Raises:
        Infeasible: no plan fits; the message states the smallest measured cost.
    """
    budget = parse_budget(budget)
    limits = dict(limits_of(profile, budget) if limits is None else limits)
    asked = {row: value for row, value in whole_budget(profile, budget).items() if row != "bytes"}
    smallest: dict[str, float] = {}
    tries = TIMED if "seconds" in asked else STRUCTURES
    for number in range(tries):
        if number == tries - 1:
            limits = {**limits, **dict.fromkeys(asked, -math.inf)}
        plan, last = _solved_or_smallest(profile, limits, task.recipe, asked)
        if not structural_choices(plan.asked):
            if not last:
                return plan
            real = {"macs": float(profile.macs), "seconds": profile.whole_seconds}
        else:
            real = structure_costs(task, profile, plan)
            plan = replace(plan, cost={**plan.cost, **{f"realised_{row}": value for row, value in real.items()}})
        over = {row: real[row] - most for row, most in asked.items() if real[row] > most * (1 + NOISE * (row == "seconds"))}
        if not over:
            return plan
        smallest = {row: min(real[row], smallest.get(row, math.inf)) for row in asked}
        if last:
            break
        for row, excess in over.items():  # the table's sums may be far below what is real, even below zero
            limits[row] -= max(excess, 0.01 * asked[row]) * (1 + number / 4)
    raise out_of_reach(profile, asked, smallest, task.recipe)


def _solved_or_smallest(
    profile: Profile, limits: Mapping[str, float], recipe: Recipe, asked: Mapping[str, float]
) -> tuple[Plan, bool]:
    """The plan of the limits; where they are below all plans, the smallest one, and that it is.

    Raises:
        Infeasible: a row that isn't measured on the structure can't be met.
    """
    floors = {row: floor_of(profile, row) for row in asked}
    low = {row: floor for row, floor in floors.items() if limits[row] < floor}
    return allocated(profile, {**limits, **low}, recipe.allocator), bool(low)


def structure_costs(task: Task, profile: Profile, plan: Plan) -> dict[str, float]:
    """Multiply-accumulates of the plan's structure, and seconds where the profile has them."""
    small = without(task.model, structural_choices(plan.asked))
    real = {"macs": float(small.macs)}
    if profile.seconds:
        real["seconds"] = profile.whole_seconds * seconds_of(task, small)
    return real


def without(model: Model, choices: Mapping[str, Choice]) -> Model:
    """The model without the dropped blocks, and with the first channels alone of the groups that lose some."""
    drops = [Drop(unit.removeprefix(BLOCKS)) for unit in choices if unit.startswith(BLOCKS)]
    left = model.edited(drops) if drops else model
    there = {layer.name for layer in left.layers()}
    cut = {unit.removeprefix(CHANNELS): choice for unit, choice in choices.items() if unit.startswith(CHANNELS)}
    keeps = [Keep(name, choice.indices or tuple(range(choice.keep or 1))) for name, choice in cut.items() if name in there]
    return left.edited(keeps) if keeps else left


def out_of_reach(profile: Profile, asked: Mapping[str, float], smallest: Mapping[str, float], recipe: Recipe) -> Infeasible:
    """The error that states what was asked for and what was reached, in the user's units."""
    row = max(asked, key=lambda name: smallest.get(name, 0.0) / asked[name])
    original = profile.macs if row == "macs" else profile.seconds
    return Infeasible(
        f"budget.{row} is {_amount(row, asked[row], original)}, and the smallest network that recipe '{recipe.name}' found takes "
        f"{_amount(row, smallest[row], original)}; raise budget.{row}, or list smaller shares in channels.keeps."
    )


def _amount(row: str, value: float, original: float) -> str:
    """A cost as a number and as a share of the original's."""
    amount = f"{1e3 * value:.4g} ms" if row == "seconds" else f"{math.ceil(value):,} {row}".replace(",", " ")
    return f"{amount} ({value / original:.3g} of the original's)" if original else amount
