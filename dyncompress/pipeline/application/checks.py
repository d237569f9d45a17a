"""Checks that refuse a plan before any work: it doesn't fit the model, the target, the recipe or the data."""

from __future__ import annotations

from dyncompress.errors import InvalidRequest
from dyncompress.pipeline.capabilities import channel_groups, factorable_layers, residual_blocks
from dyncompress.pipeline.task import Task
from dyncompress.recipe.plan_file import Structure, check_plan, place
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import BLOCKS, CHANNELS, FLOAT_BITS, STRUCTURE, Model, Plan, Target, WeightFisher


def refuse_unfit(plan: Plan, model: Model, target: Target) -> None:
    """Refuse a plan that doesn't fit the model's layers, or the target.

    Raises:
        InvalidRequest: names the unit, with its line where the plan was read from a file.
    """
    splits = factorable_layers(model) if any(choice.rank is not None for choice in plan.asked.values()) else None
    drops = any(choice.drop for choice in plan.asked.values())
    blocks = {BLOCKS + block.name for block in residual_blocks(model) if block.droppable} if drops else None
    narrows = any(unit.startswith(CHANNELS) for unit in plan.asked)
    groups = {CHANNELS + group.name: group.size for group in channel_groups(model)} if narrows else None
    bits = (*target.weight_bits, FLOAT_BITS)
    check_plan(plan, model.layers(), weight_bits=bits, structure=Structure(splits, blocks, groups))
    for unit, choice in plan.asked.items():
        rounds = not unit.startswith(STRUCTURE) and choice.weight_bits != FLOAT_BITS
        if rounds and target.weight_granularity == "tensor" and choice.granularity != "tensor":
            raise InvalidRequest(
                f"{_where(plan, unit, 'granularity')}granularity is '{choice.granularity}', and target '{target.name}' takes one "
                "scale a tensor; write granularity = 'tensor'."
            )


def _where(plan: Plan, unit: str, key: str = "") -> str:
    """The beginning of a message about a unit, with its line where the plan was read from a file."""
    return f"{place(plan.source, 'unit', unit, key)}: unit '{unit}': " if plan.source else f"unit '{unit}': "


def refuse_unrealisable(plan: Plan, recipe: Recipe, calibrated: bool) -> None:
    """Refuse choices that the recipe has no pruner, quantizer or data for, which would otherwise be ignored silently.

    Raises:
        InvalidRequest: names the unit, what is missing, and what to write instead.
    """
    other = f"apply it with recipe '{plan.recipe}'" if plan.recipe != recipe.name else "choose another recipe"
    widths = [choice.activation_bits for unit, choice in plan.asked.items() if not unit.startswith(STRUCTURE)]
    for unit, choice in plan.asked.items():
        if unit.startswith(STRUCTURE):
            if (choice.keep is not None or choice.drop) and not calibrated:
                what = "what comes after a dropped block" if choice.drop else "what reads removed channels"
                key = "drop" if choice.drop else "keep"
                raise InvalidRequest(f"{_where(plan, unit, key)}{what} is refitted on data; give calibration=batches.")
        elif choice.sparsity and recipe.pruner is None:
            raise InvalidRequest(
                f"{_where(plan, unit, 'sparsity')}recipe '{recipe.name}' has no pruner for its zeros; "
                f"{other}, or set sparsity = 0."
            )
        elif choice.weight_bits != FLOAT_BITS and recipe.quantizer is None:
            raise InvalidRequest(
                f"{_where(plan, unit, 'weight_bits')}recipe '{recipe.name}' has no quantizer for its {choice.weight_bits} bits; "
                f"{other}, or set weight_bits = {FLOAT_BITS}."
            )
        elif choice.step and recipe.quantizer is not None and not recipe.quantizer.entropy_coded:
            raise InvalidRequest(
                f"{_where(plan, unit, 'step')}step is {choice.step:g}, and the quantizer of recipe '{recipe.name}' rounds to a "
                f"width; {other}, or leave step out."
            )
        elif choice.weight_bits != FLOAT_BITS and not choice.step and recipe.quantizer and recipe.quantizer.entropy_coded:
            raise InvalidRequest(
                f"{_where(plan, unit, 'weight_bits')}the quantizer of recipe '{recipe.name}' codes by entropy and needs a step; "
                f"set step beside weight_bits = 8, or weight_bits = {FLOAT_BITS}."
            )
        elif choice.activation_bits != widths[0]:
            raise InvalidRequest(
                f"{_where(plan, unit, 'activation_bits')}activation_bits is {choice.activation_bits}, the first unit's is "
                f"{widths[0]}; a file has one width of activations: write the same in every unit."
            )


def refuse_unrecorded(plan: Plan, task: Task) -> None:
    """Refuse a plan whose steps are in units of a recorded run, where there is no run.

    Raises:
        InvalidRequest: names what to give.
    """
    recipe = task.recipe
    reads = recipe.quantizer is not None and WeightFisher() in recipe.quantizer.needs and recipe.sensitivity[0] == "trajectory"
    if reads and task.run is None and any(choice.step for choice in plan.asked.values()):
        raise InvalidRequest(
            f"the plan's steps are in units of the trajectory that recipe '{recipe.name}' reads; give it, trajectory=run."
        )
