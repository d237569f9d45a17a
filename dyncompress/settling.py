"""What a plan really costs, and the plan solved again where the additive table was wrong.

The table adds up what each unit saves alone. Widths of neighbouring layers multiply, and latencies don't add, so a plan's cost is
measured on the structure it asks for. Where that is above what was allocated, the difference is taken off the budget and the
table solved again, twice at most.

Harm is predicted layer by layer, to second order, on images that are then fitted. Where `budget.distortion` says how far the
outputs may move, the plan is carried out, their divergence is measured, and the table is solved again for as much harm as
makes it what was asked for: divergence grows about as harm does. From one rounding to the next it differs by a tenth, so that the
next plan is carried out as well; where that was far off, the last follows both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from dyncompress.divergence import divergence
from dyncompress.errors import Infeasible
from dyncompress.latency import seconds_of
from dyncompress.models.torch import TorchModel
from dyncompress.models.torch_augmenting import augmented
from dyncompress.opening import Opened, outputs
from dyncompress.realisation import carried_out, fitted
from dyncompress.recipe import Recipe
from dyncompress.restructuring import structural
from dyncompress.types import BLOCKS, CHANNELS, Batch, Budget, Choice, Distillation, Drop, Keep, Plan, Profile, Target

Solve = Callable[..., Plan]  # (profile, budget, recipe=) -> plan: `pipeline.allocate`
AGAIN = 2
TOLERANCE = {"macs": 1e-3, "seconds": 0.02}  # shares: a time is measured, and varies
MOVES = 2  # times that every calibration image is flipped and shifted by chance, to stand for images that weren't fitted
SHIFT = 2  # pixels
CARRIED = 2  # plans at most, before the last
NEAR = 0.04  # of a logarithm: no other plan is worth carrying out
AT_MOST = 4.0  # times that a predicted harm is taken to be wrong


def along(model: Opened, profile: Profile, recipe: Recipe, target: Target, solve: Solve) -> list[Plan]:
    """The plans of a recipe's budgets, from cautious to bold; budgets that can't be met are left out unless all are."""
    plans: list[Plan] = []
    for budget in recipe.budgets():
        try:
            plan = settled(model, profile, budget, recipe, target, solve)
        except Infeasible:
            if not plans:
                raise
            break
        if not plans or plan.asked != plans[-1].asked:
            plans.append(plan)
    return plans


def settled(model: Opened, profile: Profile, budget: Budget, recipe: Recipe, target: Target, solve: Solve) -> Plan:
    """The plan of a budget, with what it really costs beside what was predicted, solved again where that is more.

    Returns:
        the plan; `cost` tells `realised_macs` and `realised_seconds` where its structure changes, and the
        `divergence` expected of it where `budget.distortion` was asked for.

    Raises:
        Infeasible: no plan fits, or none is left once the difference is taken off.
    """
    plan = solve(profile, budget, recipe=recipe)
    if budget.distortion is not None and budget.bytes is None and model.calibrated and plan.distortion > 0:
        plan, budget = _as_far(model, profile, plan, budget, recipe, target, solve)
    limits = {row: plan.cost[row] for row in TOLERANCE if getattr(budget, row) is not None}
    wanted = dict(limits)
    for again in range(AGAIN + 1):
        if not structural(plan.asked):
            return plan
        real = _realised(model, profile, plan, recipe, target)
        plan = replace(plan, cost={**plan.cost, **{f"realised_{row}": value for row, value in real.items()}})
        over = {row: real[row] - limit for row, limit in wanted.items() if real[row] > limit * (1 + TOLERANCE[row])}
        if not over or again == AGAIN:
            return plan
        limits = {row: limit - over.get(row, 0.0) for row, limit in limits.items()}
        plan = solve(profile, _budget(budget, limits, profile), recipe=recipe)
    return plan


def _as_far(
    model: Opened, profile: Profile, plan: Plan, budget: Budget, recipe: Recipe, target: Target, solve: Solve
) -> tuple[Plan, Budget]:
    """The plan whose outputs diverge as far as the budget says, by what plans carried out before it did, and its budget."""
    asked, logs, moved = budget.distortion or 0.0, [], _moved(model)
    before = outputs(model.door, moved)[0]
    for _ in range(CARRIED):
        made = carried_out(model, plan, fitted(recipe, target), keep=True)
        logs.append(math.log(max(divergence(before, outputs(made.final, moved)[0]), 1e-12) / plan.distortion))
        wanted = asked / math.exp(sum(logs) / len(logs))
        if abs(math.log(wanted / plan.distortion)) < NEAR:
            break
        budget = replace(budget, distortion=min(max(wanted, plan.distortion / AT_MOST), plan.distortion * AT_MOST))
        found = solve(profile, budget, recipe=recipe)
        if found.asked == plan.asked or not found.distortion:
            break
        plan = found
    return replace(plan, cost={**plan.cost, "divergence": plan.distortion * math.exp(sum(logs) / len(logs))}), budget


def diverged(model: Opened, plan: Plan, recipe: Recipe, target: Target) -> float:
    """Divergence of the plan's network from the original, before anything is distilled and activations are rounded.

    Calibration images were fitted, and flatter: on ResNet-20 at 20 times fewer bytes they diverge by .067 nats where new images
    do by .094. Flipped and shifted by chance they do by .097. Inputs that aren't images are taken as they are.
    """
    moved = _moved(model)
    made = carried_out(model, plan, fitted(recipe, target))
    return divergence(outputs(model.door, moved)[0], outputs(made.final, moved)[0])


def _moved(model: Opened) -> list[Batch]:
    """Every calibration image flipped and shifted by chance."""
    generator = torch.Generator().manual_seed(model.seed)
    return [augmented(batch, Distillation(shift=SHIFT, mix=0.0), generator) for _ in range(MOVES) for batch in model.batches]


def _budget(budget: Budget, limits: Mapping[str, float], profile: Profile) -> Budget:
    """The recipe's budget with these limits; seconds below one are written as the share of the original's that they are."""
    found = replace(budget, macs=limits.get("macs", budget.macs))
    return replace(found, seconds=limits["seconds"] / profile.seconds) if "seconds" in limits else found


def _realised(model: Opened, profile: Profile, plan: Plan, recipe: Recipe, target: Target) -> dict[str, float]:
    """MACs of the plan's structure, and seconds where the profile has them."""
    small = without(model.door, structural(plan.asked))
    real = {"macs": float(small.macs)}
    if profile.seconds:
        real["seconds"] = profile.whole_seconds * seconds_of(model, small, recipe, target)
    return real


def without(door: TorchModel, choices: Mapping[str, Choice]) -> TorchModel:
    """The model without the dropped blocks, and with the first channels alone of the groups that lose some."""
    drops = [Drop(unit.removeprefix(BLOCKS)) for unit in choices if unit.startswith(BLOCKS)]
    left = door.edited(drops) if drops else door
    there = {layer.name for layer in left.trace.layers}
    cut = {unit.removeprefix(CHANNELS): choice for unit, choice in choices.items() if unit.startswith(CHANNELS)}
    keeps = [Keep(name, choice.indices or tuple(range(choice.keep or 1))) for name, choice in cut.items() if name in there]
    return left.edited(keeps) if keeps else left
