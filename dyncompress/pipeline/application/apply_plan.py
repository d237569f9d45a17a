"""From a plan to weights: one layer's pruning and rounding, and the encodings; structure goes first (`restructuring`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.measures.divergence import divergence
from dyncompress.models.torch.distillation import DistillationRun
from dyncompress.models.torch.gain_distillation import distill_gains, tunable
from dyncompress.models.torch.low_rank import INNER, OUTER
from dyncompress.models.torch.model import TorchModel
from dyncompress.models.torch.weight_distillation import distill_weights
from dyncompress.pipeline.application.low_rank import split
from dyncompress.pipeline.application.sequential import compressed_in_order, edits
from dyncompress.pipeline.application.structured_pruning import restructured, structural
from dyncompress.pipeline.task import Opened, first_examples, outputs, refuse_other_weights
from dyncompress.quantization.grid import Grid, decode
from dyncompress.recipe.plan_file import check_plan, place
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import (
    BLOCKS,
    FLOAT_BITS,
    STRUCTURE,
    Array,
    Choice,
    Compressed,
    Encoding,
    InputMoment,
    Observation,
    Plan,
    SetWeight,
    Target,
    Weight,
    WeightFisher,
)
from dyncompress.types.progress import Progress

STAGE_EXAMPLES = 256


def fitted(recipe: Recipe, target: Target) -> Recipe:
    """The recipe with its quantizer's grid set to what the target's integers allow."""
    if recipe.quantizer is None:
        return recipe
    grid = Grid(
        reduce_range=target.reduce_range,
        power_of_two=target.power_of_two_scales,
        full_range=not target.weight_symmetric_range,
    )
    return replace(recipe, quantizer=recipe.quantizer.on_grid(grid))


def pruned_weight(observation: Observation, choice: Choice, recipe: Recipe) -> Array:
    """The layer's weight with the zeros that the choice asks for, float32."""
    weight = observation[Weight()].detach().float()
    return recipe.pruner(weight, observation, choice) if choice.sparsity and recipe.pruner is not None else weight


def rounded_weight(observation: Observation, pruned: Array, choice: Choice, recipe: Recipe) -> tuple[Array, Encoding | None]:
    """A pruned weight rounded as the choice asks, and its encoding (None where it stays float)."""
    if choice.weight_bits == FLOAT_BITS or recipe.quantizer is None:
        return pruned, None
    encoding = recipe.quantizer(pruned, observation, choice)
    return decode(encoding), encoding


def applied(model: Opened, plan: Plan, recipe: Recipe, target: Target, progress: Progress) -> Compressed:
    """Carry out a plan: remove channels and refit, distil into all weights, prune, round, match moments, distil.

    Where nothing is rounded, weights are taught after zeros were made and moments matched.

    Raises:
        InvalidRequest: the plan doesn't fit the model or the target.
    """
    recipe, original, batches = fitted(recipe, target), model.door, model.batches
    refuse_unfit(plan, original, target)
    refuse_other_weights(model, plan)
    refuse_unrealisable(plan, recipe, model.calibrated)
    refuse_unrecorded(plan, recipe, model)
    shown = first_examples(batches, STAGE_EXAMPLES)
    answers, stages = outputs(original, shown), {}
    before, recipe = answers[0], without_distillation(recipe) if not _differentiable(answers) else recipe

    def after(door: TorchModel) -> float:
        return 0.0 if door is original else divergence(before, outputs(door, shown)[0])

    with progress.phase("remove channels, prune and round"):
        narrow, structure = restructured(model, plan.asked, mirrored=recipe.mirrored)
        early, late = lessons(plan, recipe, model.calibrated)
        if early:
            narrow = replace(narrow, door=_taught(narrow.door, model, plan, recipe, progress), kept={})
            stages["teach"] = after(narrow.door)
        narrow, halved, thin = split(narrow, plan)
        pruned, final, encodings, layers, errors = layers_compressed(narrow, halved, recipe)
    stages["prune"], stages["weights"] = after(pruned), after(final)
    free_scales = not target.power_of_two_scales and target.weight_granularity != "tensor"
    if recipe.match and model.calibrated and not free_scales:
        rule = "scales that are powers of two" if target.power_of_two_scales else "one scale a tensor"
        final = replace(final, notes=(*final.notes, f"moments aren't matched: target '{target.name}' wants {rule}."))
    elif recipe.match and model.calibrated:
        with progress.phase("match moments"):
            aim = narrow.door if structure or thin else original  # refitted layers do new work: theirs is what rounding disturbs
            final, encodings = _scaled(*final.matched(aim, batches), encodings)
        stages["match"] = after(final)
    if late:
        final = _taught(final, model, plan, recipe, progress)
        stages["teach"] = after(final)
    elif recipe.distill.weight_epochs and not early:
        final = replace(final, notes=(*final.notes, "weights aren't taught: the plan takes nothing away before it rounds."))
    if recipe.distill.epochs and model.calibrated and not tunable(final):
        final = replace(final, notes=(*final.notes, "gains and biases aren't distilled: no layer is called once a pass, alone."))
    elif recipe.distill.epochs and model.calibrated:
        with progress.phase("distil into gains and biases"):
            final, encodings = _scaled(*_distilled(final, model, recipe, free_scales), encodings)
        stages["distil"] = after(final)
    if any(choice.step for choice in layers.values()):
        encodings = {name: replace(e, scale=e.scale.bfloat16().float()) for name, e in encodings.items()}
        final = final.edited([SetWeight(name, decode(e)) for name, e in encodings.items()])
    whole = {unit: choice for unit, choice in layers.items() if unit in plan.asked}
    thin = rejoined(thin, layers, {layer.name: layer.weights for layer in narrow.door.layers()})
    realised = {unit: carried_out(choice, recipe, target) for unit, choice in {**structure, **thin, **whole}.items()}
    seen = batches if model.calibrated else ()
    share, aside = recipe.activation_share, model.aside
    return Compressed(final, encodings, plan.with_realised(realised), stages, seen, errors, share, aside)


def without_distillation(recipe: Recipe) -> Recipe:
    """The recipe for a model that returns integers alone: no gradient leads from them to a weight."""
    return replace(recipe, distill=replace(recipe.distill, epochs=0, weight_epochs=0))


def _differentiable(answers: Sequence[np.ndarray]) -> bool:
    """Whether an output is a number that a weight moves a little."""
    return any(answer.dtype.kind == "f" for answer in answers)


def lessons(plan: Plan, recipe: Recipe, calibrated: bool) -> tuple[bool, bool]:
    """Whether all weights learn before the layers are pruned and rounded, and whether they do after.

    What is rounded can't learn, and pruning and rounding are one pass: a plan that rounds teaches the network that lost channels
    or blocks, before; any other teaches last, under its zeros.
    """
    layers = [choice for unit, choice in plan.asked.items() if not unit.startswith(STRUCTURE) and unit not in plan.reasons]
    rounds = recipe.quantizer is not None and any(choice.weight_bits != FLOAT_BITS for choice in layers)
    removes = bool(structural(plan.asked))
    if not (recipe.distill.weight_epochs and calibrated):
        return False, False
    return removes and rounds, not rounds and (removes or any(choice.sparsity for choice in layers))


def _taught(door: TorchModel, model: Opened, plan: Plan, recipe: Recipe, progress: Progress) -> TorchModel:
    """The network with weights that the original taught; layers that the plan leaves alone stay as they are."""
    with progress.phase("distil into all weights"):
        spec = replace(recipe.distill, epochs=recipe.distill.weight_epochs, rate=recipe.distill.weight_rate)
        mirrored, seed = recipe.mirrored, recipe.seed
        return distill_weights(door, model.door, model.batches, run=DistillationRun(spec, seed, mirrored), exclude=plan.reasons)


def _distilled(door: TorchModel, model: Opened, recipe: Recipe, gains: bool) -> tuple[TorchModel, dict[str, tuple[Array, Array]]]:
    """The network with gains (where they may change) and shifts that the original taught, and what they are."""
    spec, seed, mirrored = recipe.distill, recipe.seed, recipe.mirrored
    return distill_gains(door, model.door, model.batches, run=DistillationRun(spec, seed, mirrored), gains=gains)


def refuse_unfit(plan: Plan, door: TorchModel, target: Target) -> None:
    """Refuse a plan that doesn't fit the model's layers, or the target.

    Raises:
        InvalidRequest: names the unit, with its line where the plan was read from a file.
    """
    splits = door.factorable if any(choice.rank is not None for choice in plan.asked.values()) else None
    drops = any(choice.drop for choice in plan.asked.values())
    blocks = {BLOCKS + block.name for block in door.residual_blocks() if block.droppable} if drops else None
    check_plan(plan, door.layers(), weight_bits=(*target.weight_bits, FLOAT_BITS), splits=splits, blocks=blocks)
    for unit, choice in plan.asked.items():
        rounds = not unit.startswith(STRUCTURE) and choice.weight_bits != FLOAT_BITS
        if rounds and target.weight_granularity == "tensor" and choice.granularity != "tensor":
            raise InvalidRequest(
                f"{_told(plan, unit, 'granularity')}granularity is '{choice.granularity}', and target '{target.name}' takes one "
                "scale a tensor; write granularity = 'tensor'."
            )


def _told(plan: Plan, unit: str, key: str = "") -> str:
    """How a message about a unit begins: with its line, where the plan was read from a file."""
    return f"{place(plan.source, 'unit', unit, key)}: unit '{unit}': " if plan.source else f"unit '{unit}': "


def refuse_unrealisable(plan: Plan, recipe: Recipe, calibrated: bool) -> None:
    """Refuse what the recipe has no tool for, which would otherwise be passed over in silence.

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
                raise InvalidRequest(f"{_told(plan, unit, key)}{what} is refitted on data; give calibration=batches.")
        elif choice.sparsity and recipe.pruner is None:
            raise InvalidRequest(
                f"{_told(plan, unit, 'sparsity')}recipe '{recipe.name}' has no pruner for its zeros; "
                f"{other}, or set sparsity = 0."
            )
        elif choice.weight_bits != FLOAT_BITS and recipe.quantizer is None:
            raise InvalidRequest(
                f"{_told(plan, unit, 'weight_bits')}recipe '{recipe.name}' has no quantizer for its {choice.weight_bits} bits; "
                f"{other}, or set weight_bits = {FLOAT_BITS}."
            )
        elif choice.step and recipe.quantizer is not None and not recipe.quantizer.entropy_coded:
            raise InvalidRequest(
                f"{_told(plan, unit, 'step')}step is {choice.step:g}, and the quantizer of recipe '{recipe.name}' rounds to a "
                f"width; {other}, or leave step out."
            )
        elif choice.weight_bits != FLOAT_BITS and not choice.step and recipe.quantizer and recipe.quantizer.entropy_coded:
            raise InvalidRequest(
                f"{_told(plan, unit, 'weight_bits')}the quantizer of recipe '{recipe.name}' codes by entropy and needs a step; "
                f"set step beside weight_bits = 8, or weight_bits = {FLOAT_BITS}."
            )
        elif choice.activation_bits != widths[0]:
            raise InvalidRequest(
                f"{_told(plan, unit, 'activation_bits')}activation_bits is {choice.activation_bits}, the first unit's is "
                f"{widths[0]}; a file has one width of activations: write the same in every unit."
            )


def refuse_unrecorded(plan: Plan, recipe: Recipe, model: Opened) -> None:
    """Refuse steps in units that a recorded run tells, where it isn't there.

    Raises:
        InvalidRequest: says what to give.
    """
    reads = recipe.quantizer is not None and WeightFisher() in recipe.quantizer.needs and recipe.sensitivity[0] == "trajectory"
    if reads and model.run is None and any(choice.step for choice in plan.asked.values()):
        raise InvalidRequest(
            f"the plan's steps are in units of the trajectory that recipe '{recipe.name}' reads; give it, trajectory=run."
        )


def rejoined(thin: Mapping[str, Choice], layers: Mapping[str, Choice], weights: Mapping[str, int]) -> dict[str, Choice]:
    """The realised choices of split layers, with the zeros, widths and scales that their two halves got."""
    found = {}
    for name, choice in thin.items():
        halves = [name + end for end in (INNER, OUTER) if name + end in layers]
        zeros, size = sum(layers[half].sparsity * weights[half] for half in halves), sum(weights[half] for half in halves)
        done = {} if not halves else {"weight_bits": layers[halves[0]].weight_bits, "granularity": layers[halves[0]].granularity}
        found[name] = replace(choice, sparsity=zeros / max(size, 1), **done)
    return found


def carried_out(choice: Choice, recipe: Recipe, target: Target) -> Choice:
    """The choice with the pruner and the quantizer that realised it, and the width of activations that the target has."""
    choice = replace(choice, activation_bits=FLOAT_BITS) if target.activation_dtype == "float32" else choice
    return with_method(choice, recipe)


def with_method(choice: Choice, recipe: Recipe) -> Choice:
    """The choice, naming the pruner and the quantizer that realised it."""
    names = [choice.method] if choice.method else []
    if choice.sparsity and recipe.pruner is not None:
        names.append(type(recipe.pruner).__name__)
    if choice.weight_bits != FLOAT_BITS and recipe.quantizer is not None:
        names.append(type(recipe.quantizer).__name__)
    return replace(choice, method=" + ".join(names))


def layers_compressed(
    model: Opened, plan: Plan, recipe: Recipe
) -> tuple[TorchModel, TorchModel, dict[str, Encoding], dict[str, Choice], dict[str, tuple[float, float]]]:
    """Prune and round every layer of the plan.

    Returns:
        the model after pruning alone, the model after rounding, the encodings, the realised choices, and each layer's relative
        output error after pruning and after rounding.
    """
    needs = {Weight(), *(n for tool in (recipe.pruner, recipe.quantizer) if tool is not None for n in tool.needs)}
    door, chosen = model.door, {name: choice for name, choice in plan.asked.items() if name not in plan.reasons}
    pruned, encodings, realised, errors = {}, {}, {}, {}

    def one(observation: Observation) -> Array:
        """The layer's new weight; what became of it is noted."""
        name, choice = observation.layer.name, chosen[observation.layer.name]
        less = pruned_weight(observation, choice, recipe)
        new, encoding = rounded_weight(observation, less, choice, recipe)
        pruned.update({name: less} if choice.sparsity else {})
        errors[name] = relative_error(observation, less), relative_error(observation, new)
        encodings.update({name: encoding} if encoding is not None else {})
        realised[name] = _done(choice, new, encoding)
        return new

    layers = [layer.name for layer in door.layers() if layer.name in chosen]
    found: dict[str, tuple[Array, Array | None]] = {}
    if recipe.sequential and model.calibrated:
        found.update(compressed_in_order(model, layers, one, tuple(needs), mirrored=recipe.mirrored))
    if len(found) < len(layers):
        rest = ((name, o) for name, o in model.observe(tuple(needs)) if name in chosen and name not in found)
        found.update((name, (one(o), None)) for name, o in rest)
    sparse = [edit for name in layers if chosen[name].sparsity for edit in edits(name, pruned[name], found[name][1])]
    final = [edit for name in layers for edit in edits(name, *found[name])]
    return door.edited(sparse) if sparse else door, door.edited(final) if final else door, encodings, realised, errors


def _done(choice: Choice, new: Array, encoding: Encoding | None) -> Choice:
    """The choice as its layer was really pruned and rounded."""
    zeros = float((new == 0).float().mean()) if choice.sparsity else 0.0
    if encoding is None:
        return replace(choice, sparsity=zeros, weight_bits=FLOAT_BITS, step=0.0)
    granularity = f"group:{encoding.group}" if encoding.group else choice.granularity
    return replace(choice, sparsity=zeros, weight_bits=encoding.bits, granularity=granularity)


def relative_error(observation: Observation, new: Array) -> float:
    """E|(W - W') x|^2 / E|W x|^2 over the layer's own inputs; of the weights themselves where the inputs weren't observed."""
    old = observation[Weight()].double()
    groups = observation[InputMoment()].shape[0] if InputMoment() in observation else 1
    rows, error = (w.double().reshape(groups, w.shape[0] // groups, -1) for w in (old, old - new.double()))
    if InputMoment() in observation:
        moment = observation[InputMoment()].double()
        power, lost = ((w @ moment * w).sum() for w in (rows, error))
    else:
        power, lost = rows.square().sum(), error.square().sum()
    return float(lost / power) if float(power) > 0 else 0.0


def _scaled(
    model: TorchModel, gains: Mapping[str, tuple[Array, Array]], encodings: Mapping[str, Encoding]
) -> tuple[TorchModel, dict[str, Encoding]]:
    """A model whose outputs took gains and shifts, its integer weights again exactly what the encodings with these gains say."""
    encodings = rescaled(encodings, gains)
    return model.edited([SetWeight(name, decode(e)) for name, e in encodings.items()]), encodings


def rescaled(encodings: Mapping[str, Encoding], gains: Mapping[str, tuple[Array, Array]]) -> dict[str, Encoding]:
    """Gains of moment matching or distillation move into the scales: the integer codes stay as they are."""
    out = {}
    for name, encoding in encodings.items():
        if name in gains:
            gain = gains[name][0].to(encoding.scale)
            gain = gain[:, None] if encoding.scale.ndim == 2 else gain
            encoding = replace(encoding, scale=encoding.scale * gain)
        out[name] = encoding
    return out
