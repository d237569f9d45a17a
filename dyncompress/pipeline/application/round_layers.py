"""One layer's pruning and rounding, and all layers of a plan, in order or each on its own inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dyncompress.pipeline.application.sequential import compress_in_order, edits
from dyncompress.pipeline.task import Task
from dyncompress.quantization import for_choice
from dyncompress.quantization.grid import Grid, decode
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import (
    FLOAT_BITS,
    Array,
    Choice,
    Encoding,
    InputMoment,
    LayerwiseCalibration,
    Model,
    Need,
    Observation,
    Plan,
    Pruner,
    Quantizer,
    Target,
    Weight,
)

_ROWS = 4096  # of a weight that are in memory as float64 at once: a table of words has many


def fit_to_target(recipe: Recipe, target: Target) -> Recipe:
    """The recipe with its quantizer's grid set to what the target's integers allow."""
    if recipe.quantizer is None:
        return recipe
    grid = Grid(
        reduce_range=target.reduce_range,
        power_of_two=target.power_of_two_scales,
        full_range=not target.weight_symmetric_range,
    )
    return replace(recipe, quantizer=recipe.quantizer.on_grid(grid))


def pruned_weight(observation: Observation, choice: Choice, pruner: Pruner | None) -> Array:
    """The layer's weight with the zeros that the choice asks for, float32."""
    weight = observation[Weight()].detach().float()
    return pruner(weight, observation, choice) if choice.sparsity and pruner is not None else weight


def rounded_weight(
    observation: Observation, pruned: Array, choice: Choice, quantizer: Quantizer | None
) -> tuple[Array, Encoding | None]:
    """A pruned weight rounded as the choice asks, and its encoding (None where it stays float)."""
    if choice.weight_bits == FLOAT_BITS or quantizer is None:
        return pruned, None
    encoding = quantizer(pruned, observation, choice)
    return decode(encoding), encoding


@dataclass
class RoundedLayers:
    """Prunes and rounds layers one by one, and records the result of each.

    Attributes:
        choices: layer -> what the plan asks for.
        pruner, quantizer: of the recipe.
        pruned: layer -> its weight after pruning alone, where the choice asks for zeros.
        encodings: layer -> its encoding, where it was rounded.
        realised: layer -> the choice as it was carried out.
        errors: layer -> relative error of its output after pruning and after rounding.
    """

    choices: Mapping[str, Choice]
    pruner: Pruner | None
    quantizer: Quantizer | None
    pruned: dict[str, Array] = field(default_factory=dict)
    encodings: dict[str, Encoding] = field(default_factory=dict)
    realised: dict[str, Choice] = field(default_factory=dict)
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __call__(self, observation: Observation) -> Array:
        """The layer's new weight."""
        name = observation.layer.name
        choice = self.choices[name]
        less = pruned_weight(observation, choice, self.pruner)
        new, encoding = rounded_weight(observation, less, choice, self.quantizer)
        if choice.sparsity:
            self.pruned[name] = less
        if encoding is not None:
            self.encodings[name] = encoding
        self.errors[name] = relative_error(observation, less), relative_error(observation, new)
        self.realised[name] = _done(choice, new, encoding)
        return new


def round_layers(task: Task, plan: Plan) -> tuple[Model, Model, RoundedLayers]:
    """Prune and round every layer of the plan.

    Returns:
        the model after pruning alone, the model after rounding, and the record of each layer.
    """
    recipe, model = task.recipe, task.model
    choices = {name: choice for name, choice in plan.asked.items() if name not in plan.reasons}
    needs = {Weight(), *(need for choice in choices.values() for need in needs_of(choice, recipe))}
    rounded = RoundedLayers(choices, recipe.pruner, recipe.quantizer)
    layers = [layer.name for layer in model.layers() if layer.name in choices]
    weights: dict[str, tuple[Array, Array | None]] = {}
    if recipe.sequential and task.calibrated and isinstance(model, LayerwiseCalibration):
        weights.update(compress_in_order(task.source, layers, rounded, tuple(needs), flips=recipe.mirrored))
    if len(weights) < len(layers):
        rest = ((name, o) for name, o in task.observe(tuple(needs)) if name in choices and name not in weights)
        weights.update((name, (rounded(o), None)) for name, o in rest)
    sparse = [edit for name in layers if choices[name].sparsity for edit in edits(name, rounded.pruned[name], weights[name][1])]
    final = [edit for name in layers for edit in edits(name, *weights[name])]
    return model.edited(sparse) if sparse else model, model.edited(final) if final else model, rounded


def needs_of(choice: Choice, recipe: Recipe) -> tuple[Need, ...]:
    """What the recipe's tools read of a layer to carry out a choice."""
    pruner = recipe.pruner if choice.sparsity else None
    rounds = recipe.quantizer is not None and choice.weight_bits != FLOAT_BITS
    quantizer = for_choice(recipe.quantizer, choice) if rounds else None
    return tuple(need for tool in (pruner, quantizer) if tool is not None for need in tool.needs)


def _done(choice: Choice, new: Array, encoding: Encoding | None) -> Choice:
    """The choice as it was realised."""
    zeros = float((new == 0).float().mean()) if choice.sparsity else 0.0
    if encoding is None:
        return replace(choice, sparsity=zeros, weight_bits=FLOAT_BITS, step=0.0)
    granularity = f"group:{encoding.group}" if encoding.group else choice.granularity
    return replace(choice, sparsity=zeros, weight_bits=encoding.bits, granularity=granularity)


def relative_error(observation: Observation, new: Array) -> float:
    """E|(W - W') x|^2 / E|W x|^2 over the layer's own inputs; of the weights themselves where the inputs weren't observed."""
    old = observation[Weight()]
    moments = observation[InputMoment()].double() if InputMoment() in observation else [None]
    sums = [0.0, 0.0]
    for group, moment in zip(zip(old.chunk(len(moments)), new.chunk(len(moments)), strict=True), moments, strict=True):
        for before, after in zip(*(w.flatten(1).split(_ROWS) for w in group), strict=True):
            for index, rows in enumerate((before.double(), before.double() - after.double())):
                sums[index] += float((rows * (rows if moment is None else rows @ moment)).sum())
    return sums[1] / sums[0] if sums[0] > 0 else 0.0
