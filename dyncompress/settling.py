"""What a plan really costs, and the plan solved again where the additive table was wrong.

The table adds up what each unit saves alone. Widths of neighbouring layers multiply, and latencies don't add, so a plan's cost is
measured on the structure it asks for. Where that is above what was allocated, the difference is taken off the budget and the
table solved again, twice at most.

Harm is predicted layer by layer, to second order, on images that are then fitted. Where `budget.distortion` says how far the
outputs may move, the plan is carried out once, their divergence is measured, and the table is solved again for as much harm as
makes it what was asked for: divergence grows about as harm does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from dyncompress.divergence import divergence
from dyncompress.errors import Infeasible
from dyncompress.factoring import split
from dyncompress.latency import seconds_of
from dyncompress.models.torch import TorchModel
from dyncompress.models.torch_augmenting import augmented
from dyncompress.models.torch_calling import split as parts_of
from dyncompress.opening import Opened, outputs
from dyncompress.realisation import fitted, layers_compressed
from dyncompress.recipe import Recipe
from dyncompress.restructuring import restructured, structural
from dyncompress.types import BLOCKS, CHANNELS, Batch, Budget, Choice, Distillation, Drop, Keep, Plan, Profile, Target

Solve = Callable[..., Plan]  # (profile, budget, recipe=) -> plan: `pipeline.allocate`
AGAIN = 2
TOLERANCE = {"macs": 1e-3, "seconds": 0.02}  # shares: a time is measured, and varies
MOVES = 2  # times that every calibration image is flipped and shifted by chance, to stand for images that weren't fitted
SHIFT = 2  # pixels
AT_ONCE = 256  # examples
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
        found = diverged(model, plan, recipe, target)
        scale = min(max(budget.distortion / max(found, 1e-12), 1 / AT_MOST), AT_MOST)
        budget = replace(budget, distortion=plan.distortion * scale)
        plan = solve(profile, budget, recipe=recipe)
        plan = replace(plan, cost={**plan.cost, "divergence": found * scale})
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


def diverged(model: Opened, plan: Plan, recipe: Recipe, target: Target) -> float:
    """Divergence of the plan's network from the original, before anything is distilled and activations are rounded.

    Calibration images were fitted, and flatter: on ResNet-20 at 20 times fewer bytes they diverge by .067 nats where new images
    do by .094. Flipped and shifted by chance they do by .097. Inputs that aren't images are taken as they are.
    """
    moved = _moved(model)
    narrow, layers, _ = split(restructured(model, plan.asked)[0], plan)
    compressed = layers_compressed(narrow, layers, fitted(recipe, target))[1]
    return divergence(outputs(model.door, moved)[0], outputs(compressed, moved)[0])


def _moved(model: Opened) -> list[Batch]:
    """Every calibration image flipped and shifted by chance."""
    generator = torch.Generator().manual_seed(model.seed)
    moved = [augmented(batch, Distillation(shift=SHIFT, mix=0.0), generator) for _ in range(MOVES) for batch in model.batches]
    return [part for batch in moved for part in parts_of(batch, model.door.input_names, AT_ONCE)]


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
