"""Apply a plan to a copy of the model: structure first, then weights, then moment matching and distillation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dyncompress.errors import Differs
from dyncompress.measures.divergence import divergence
from dyncompress.pipeline.application import checks
from dyncompress.pipeline.application.low_rank import split_layers
from dyncompress.pipeline.application.round_layers import fit_to_target, round_layers
from dyncompress.pipeline.application.structured_pruning import restructure, structural_choices
from dyncompress.pipeline.observed_model import outputs
from dyncompress.pipeline.task import Task, refuse_other_weights
from dyncompress.quantization import for_choice
from dyncompress.quantization.grid import decode
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import (
    FLOAT_BITS,
    INNER,
    OUTER,
    STRUCTURE,
    Array,
    Choice,
    Compressed,
    DistillationTask,
    Encoding,
    LayerwiseCalibration,
    Model,
    MomentMatching,
    Plan,
    SetWeight,
    Shown,
    Target,
    Trainable,
)


@dataclass
class Stages:
    """The divergence from the original after every stage, on some calibration examples.

    Attributes:
        original: the model adapter before anything was done.
        shown: the examples, and what the original computes on them.
        divergences: stage -> divergence.
    """

    original: Model
    shown: Shown
    divergences: dict[str, float] = field(default_factory=dict)

    def note(self, stage: str, model: Model) -> None:
        """Measure a model after a stage."""
        if model is self.original:
            self.divergences[stage] = 0.0
            return
        found, wanted = outputs(model, self.shown.batches)[0], self.shown.outputs[0]
        if found.shape != wanted.shape:
            raise Differs(
                f"the first output has shape {wanted.shape} in the original and {found.shape} after stage '{stage}': "
                "its length depends on the values, as where a loop stops at a word; export the part before the loop alone."
            )
        self.divergences[stage] = divergence(wanted, found)

    @property
    def differentiable(self) -> bool:
        """Whether an output is a number that a small change of a weight changes."""
        return any(output.dtype.kind == "f" for output in self.shown.outputs)


def apply_plan(task: Task, plan: Plan) -> Compressed:
    """Apply a plan: remove channels and refit, distil into all weights, prune, round, match moments, distil.

    Where nothing is rounded, weights are distilled after pruning and moment matching.

    Raises:
        InvalidRequest: the plan doesn't fit the model or the target.
    """
    task = replace(task, recipe=fit_to_target(task.recipe, task.target))
    checks.refuse_unfit(plan, task.model, task.target)
    refuse_other_weights(task, plan)
    checks.refuse_unrealisable(plan, task.recipe, task.calibrated)
    checks.refuse_unrecorded(plan, task)
    stages = Stages(task.model, task.source.shown())
    task = task if stages.differentiable else replace(task, recipe=without_distillation(task.recipe))
    schedule = distillation_schedule(plan, task.recipe, task.calibrated)
    with task.progress.phase("remove channels, prune and round"):
        narrow, structure = restructure(task, plan.asked, flips=task.recipe.mirrored)
        if schedule.before_rounding:
            narrow = narrow.with_model(_with_distilled_weights(task, narrow.model, plan))
            stages.note("teach", narrow.model)
        narrow, halved, thin = split_layers(narrow, plan)
        pruned, final, rounded = round_layers(narrow, halved)
    stages.note("prune", pruned)
    stages.note("weights", final)
    aim = narrow.model if structure or thin else task.model  # refitted layers compute new outputs, and rounding changes those
    final, encodings = _matched(task, final, aim, rounded.encodings, stages)
    if schedule.after_pruning:
        final = _with_distilled_weights(task, final, plan)
        stages.note("teach", final)
    elif task.recipe.distill.weight_epochs and not schedule.before_rounding:
        final = final.with_notes("weights aren't distilled: the plan takes nothing away before it rounds.")
    final, encodings = _with_distilled_gains(task, final, encodings, stages)
    if any(choice.step for choice in rounded.realised.values()):
        encodings = {name: replace(e, scale=e.scale.bfloat16().float()) for name, e in encodings.items()}
        final = final.edited([SetWeight(name, decode(e)) for name, e in encodings.items()])
    whole = {unit: choice for unit, choice in rounded.realised.items() if unit in plan.asked}
    thin = choices_of_split_layers(thin, rounded.realised, {layer.name: layer.weights for layer in narrow.model.layers()})
    realised = {
        unit: realised_choice(choice, task.recipe, task.target) for unit, choice in {**structure, **thin, **whole}.items()
    }
    return Compressed(
        model=final.with_notes(*_left_out(task)),
        encodings=encodings,
        plan=plan.with_realised(realised),
        stages=stages.divergences,
        calibration=task.batches if task.calibrated else (),
        errors=rounded.errors,
        activation_share=task.recipe.activation_share,
        aside=task.aside,
        shown=stages.shown,
    )


def _left_out(task: Task) -> list[str]:
    """Sentences about improvements of the recipe that the model's adapter can't make."""
    name = type(task.model).__name__
    wanted = {
        "moments aren't matched": (task.recipe.match, MomentMatching),
        "layers aren't fitted in order": (task.recipe.sequential, LayerwiseCalibration),
        "gains and biases aren't distilled": (task.recipe.distill.epochs > 0, Trainable),
    }
    return [
        f"{what}: the model adapter {name} lacks the capability '{capability.__name__}'."
        for what, (asked, capability) in wanted.items()
        if asked and task.calibrated and not isinstance(task.model, capability)
    ]


def without_distillation(recipe: Recipe) -> Recipe:
    """The recipe for a model that returns integers alone: they have no gradient with respect to a weight."""
    return replace(recipe, distill=replace(recipe.distill, epochs=0, weight_epochs=0))


# ---------------------------------------------------------------- moments and distillation
def _free_scales(target: Target) -> bool:
    """Whether every output channel has a scale of its own, of any value."""
    return not target.power_of_two_scales and target.weight_granularity != "tensor"


def _matched(
    task: Task, model: Model, aim: Model, encodings: dict[str, Encoding], stages: Stages
) -> tuple[Model, dict[str, Encoding]]:
    """The model with the moments of `aim`, and the encodings with the gains.

    Both stay as they are where recipe or target rule it out, or where the outputs don't come nearer to the original's.
    """
    if not (task.recipe.match and task.calibrated and isinstance(model, MomentMatching)):
        return model, encodings
    if _free_scales(task.target):
        with task.progress.phase("match moments"):
            matched, rescaled_encodings = _rescaled(*model.matched(aim, task.batches), encodings)
        stages.note("match", matched)
        if stages.divergences["match"] <= stages.divergences["weights"]:
            return matched, rescaled_encodings
        del stages.divergences["match"]  # such as in front of a logarithm, which small values count for as much as large ones
        return model.with_notes("moments aren't matched: that would take the outputs further from the original's."), encodings
    rule = "scales that are powers of two" if task.target.power_of_two_scales else "one scale a tensor"
    return model.with_notes(f"moments aren't matched: target '{task.target.name}' wants {rule}."), encodings


@dataclass(frozen=True)
class DistillationSchedule:
    """When weights are distilled.

    Attributes:
        before_rounding: the network that lost channels or blocks is distilled before its layers are pruned and rounded.
        after_pruning: the network is distilled last, with its zeros kept.
    """

    before_rounding: bool
    after_pruning: bool


def distillation_schedule(plan: Plan, recipe: Recipe, calibrated: bool) -> DistillationSchedule:
    """When all weights are distilled.

    A rounded weight can't be changed any more, and pruning and rounding are one pass: a plan that rounds distils into the network
    that lost channels or blocks, before that pass; any other plan distils last, with its zeros kept.
    """
    layers = [choice for unit, choice in plan.asked.items() if not unit.startswith(STRUCTURE) and unit not in plan.reasons]
    rounds = recipe.quantizer is not None and any(choice.weight_bits != FLOAT_BITS for choice in layers)
    removes = bool(structural_choices(plan.asked))
    if not (recipe.distill.weight_epochs and calibrated):
        return DistillationSchedule(False, False)
    return DistillationSchedule(removes and rounds, not rounds and (removes or any(choice.sparsity for choice in layers)))


def _with_distilled_weights(task: Task, model: Model, plan: Plan) -> Model:
    """The model with weights distilled from the original; layers that the plan leaves alone stay as they are."""
    recipe = task.recipe
    spec = replace(recipe.distill, epochs=recipe.distill.weight_epochs, rate=recipe.distill.weight_rate)
    assert isinstance(model, Trainable)  # `refuse_incapable` has checked this
    with task.progress.phase("distil into all weights"):
        return model.distilled(task.model, task.batches, DistillationTask(spec, recipe.seed, recipe.mirrored, plan.reasons))


def _with_distilled_gains(
    task: Task, model: Model, encodings: dict[str, Encoding], stages: Stages
) -> tuple[Model, dict[str, Encoding]]:
    """The model with gains (where scales are free) and shifts distilled from the original, and the encodings with the gains."""
    recipe = task.recipe
    if not (recipe.distill.epochs and task.calibrated and isinstance(model, Trainable)):
        return model, encodings
    if not model.tunable():
        return model.with_notes("gains and biases aren't distilled: no layer is called once a pass, alone."), encodings
    how = DistillationTask(recipe.distill, recipe.seed, recipe.mirrored, gains=_free_scales(task.target))
    with task.progress.phase("distil into gains and biases"):
        model, encodings = _rescaled(*model.tuned(task.model, task.batches, how), encodings)
    stages.note("distil", model)
    return model, encodings


def _rescaled(
    model: Model, gains: Mapping[str, tuple[Array, Array]], encodings: Mapping[str, Encoding]
) -> tuple[Model, dict[str, Encoding]]:
    """A model whose outputs got gains and shifts, with its weights decoded from the encodings with these gains."""
    encodings = rescaled(encodings, gains)
    return model.edited([SetWeight(name, decode(e)) for name, e in encodings.items()]), encodings


# ---------------------------------------------------------------- what was realised
def choices_of_split_layers(
    thin: Mapping[str, Choice], layers: Mapping[str, Choice], weights: Mapping[str, int]
) -> dict[str, Choice]:
    """The realised choices of split layers, with the sparsity, width and granularity of their two halves."""
    choices = {}
    for name, choice in thin.items():
        halves = [name + end for end in (INNER, OUTER) if name + end in layers]
        zeros, size = sum(layers[half].sparsity * weights[half] for half in halves), sum(weights[half] for half in halves)
        done = {} if not halves else {"weight_bits": layers[halves[0]].weight_bits, "granularity": layers[halves[0]].granularity}
        choices[name] = replace(choice, sparsity=zeros / max(size, 1), **done)
    return choices


def realised_choice(choice: Choice, recipe: Recipe, target: Target) -> Choice:
    """The choice with the pruner and the quantizer that realised it, and the width of activations that the target has."""
    choice = replace(choice, activation_bits=FLOAT_BITS) if target.activation_dtype == "float32" else choice
    return with_method(choice, recipe)


def with_method(choice: Choice, recipe: Recipe) -> Choice:
    """The choice, naming the pruner and the quantizer that realised it."""
    names = [choice.method] if choice.method else []
    if choice.sparsity and recipe.pruner is not None:
        names.append(type(recipe.pruner).__name__)
    if choice.weight_bits != FLOAT_BITS and recipe.quantizer is not None:
        names.append(type(for_choice(recipe.quantizer, choice)).__name__)
    return replace(choice, method=" + ".join(names))


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
