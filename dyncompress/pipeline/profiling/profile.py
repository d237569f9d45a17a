"""The body of `measure`: one pass over the layers gives the estimates, the exact errors of every choice, and their costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dyncompress import deployment
from dyncompress.allocation.cost import UNMEASURED
from dyncompress.errors import InvalidRequest
from dyncompress.pipeline.application.round_layers import fit_to_target
from dyncompress.pipeline.capabilities import channel_groups, factorable_layers, float_file, residual_blocks
from dyncompress.pipeline.observed_model import first_examples
from dyncompress.pipeline.profiling import candidates, latency, learned_prior, low_rank_choices, probes, structure_choices
from dyncompress.pipeline.task import Task
from dyncompress.recipe.recipe import LayerRule, Recipe, rules_for
from dyncompress.types import (
    BLOCKS,
    CHANNELS,
    FLOAT_BITS,
    POOLED,
    SEAL_BYTES,
    STRUCTURE,
    Budget,
    ChannelGroup,
    Choice,
    Estimate,
    InputMoment,
    Layer,
    Need,
    Observation,
    Option,
    OutputFisher,
    Placement,
    Profile,
    ResidualBlock,
    Weight,
)

Considered = Callable[[Layer, Sequence[Choice], candidates.Bytes], tuple[Choice, ...]]

SPLIT_BYTES = 120  # of the graph: one more operator, its output's grid, and the names of both


@dataclass(frozen=True)
class Units:
    """The units of a model that a plan chooses for.

    Attributes:
        layers: layer -> the choices to compare, for the layers that aren't left alone.
        reasons: layer -> why it is left alone.
        groups: channel groups that may be narrowed.
        blocks: residual blocks that may be dropped.
    """

    layers: Mapping[str, tuple[Choice, ...]]
    reasons: Mapping[str, str]
    groups: tuple[ChannelGroup, ...]
    blocks: tuple[ResidualBlock, ...]

    @property
    def decided(self) -> bool:
        """Whether there is nothing to compare: every unit has one option."""
        return not self.groups and not self.blocks and all(len(choices) == 1 for choices in self.layers.values())

    @property
    def in_groups(self) -> set[str]:
        """The layers that make or read the channels of a group."""
        return {name for group in self.groups for name in (*group.producers, *group.consumers)}


@dataclass(frozen=True)
class Measured:
    """What one pass over the layers gives.

    Attributes:
        estimates: measure -> layer -> estimate.
        errors: layer -> the errors of its choices.
        observations: of the layers in channel groups.
    """

    estimates: Mapping[str, Mapping[str, Estimate]]
    errors: Mapping[str, tuple[candidates.Errors, ...]]
    observations: Mapping[str, Observation]


def profile_of(task: Task, *, considered: Considered = candidates.worth_trying) -> Profile:
    """Observe every layer once, and tabulate.

    Where `considered` leaves every layer one choice there is nothing to compare: errors and sensitivities aren't computed, and
    only what the measures read is observed.
    """
    task = replace(task, recipe=fit_to_target(task.recipe, task.target))
    model, recipe = task.model, task.recipe
    given = {"theory": True, "trajectory": task.run is not None, "fisher": task.calibrated, "probe": task.calibrated}
    if not any(given[name] for name in recipe.sensitivity):
        raise _unread(recipe)
    layers = model.layers()
    rules = rules_for(recipe, [layer.name for layer in layers])
    by_name = {layer.name: layer for layer in layers}
    with task.progress.phase("export the original"):
        example = first_examples(task.batches, 2)[0]
        content, places = model.to_onnx(example)
    units = _units(task, places, considered, rules)
    with task.progress.phase("count the bytes that stay fixed"):
        placed = {name: places[name] for name in units.layers}
        float_bytes, fixed = len(float_file(model, example)), _fixed_bytes(content, placed, task)
        del content  # as large as the model
    measured = _measured(task, units)
    source = UNMEASURED if units.decided else _source(task, measured.errors)
    sensitivities = _sensitivities(task, source, measured)
    probed = {}
    if source == "probe":
        with task.progress.phase("probe the layers", len(measured.errors)) as step:
            probed = probes.layer_rates(task, measured.errors, step)
    distortions = candidates.distortions(measured.errors, source, sensitivities.log, probed)
    named = POOLED if source == "fisher" and task.source.pools else source
    table: dict[str, tuple[Option, ...]] = {
        name: candidates.layer_options(by_name[name], errors, distortions[name], file_bytes)
        for name, errors in measured.errors.items()
    }
    table |= _structure(task, units, measured.observations)
    table, seconds, whole_seconds = _timed(task, table)
    return Profile(
        layers=layers,
        estimates={name: by_layer for name, by_layer in measured.estimates.items() if by_layer},
        table=table,
        source={
            unit: "probe" if unit.startswith(STRUCTURE) else _source_text(named, sensitivities.provenance.get(unit))
            for unit in table
        },
        reasons=units.reasons,
        float_bytes=float_bytes,
        fixed_bytes=SEAL_BYTES + fixed,
        macs=model.macs,
        digest=model.state_digest,
        recipe=recipe.name,
        target=task.target.name,
        notes=(*model.notes, *(task.run.notes if task.run else ()), *filter(None, [deployment.matches_target(task.target)])),
        seconds=seconds,
        whole_seconds=whole_seconds,
    )


def profile_for_budget(task: Task) -> Profile:
    """The profile for the recipe's own budgets; without a budget it has each layer's most careful choice alone."""
    recipe = task.recipe
    if recipe.path or recipe.budget != Budget():
        return profile_of(task)
    return profile_of(replace(task, recipe=replace(recipe, keeps=(), blocks=False)), considered=candidates.most_careful)


def _units(
    task: Task, places: Mapping[str, Sequence[Placement]], considered: Considered, rules: Mapping[str, LayerRule]
) -> Units:
    """The layers with their choices, and the groups and blocks that the recipe may shrink."""
    model, recipe = task.model, task.recipe
    layers = model.layers()
    reasons = left_alone(layers, places, {name for name, rule in rules.items() if rule.leave_alone}, recipe.name)
    weights = sum(layer.weights for layer in layers if layer.name not in reasons)
    price = file_bytes if recipe.budget.sparsity is None else candidates.bits_left
    splits = factorable_layers(model) if recipe.ranks else frozenset()

    def allowed(layer: Layer) -> tuple[Choice, ...]:
        choices = candidates.choices(layer, recipe, task.target, rules.get(layer.name), weights)
        return (*choices, *low_rank_choices.choices_by_rank(layer, recipe, choices)) if layer.name in splits else choices

    choices = {layer.name: considered(layer, allowed(layer), price) for layer in layers if layer.name not in reasons}
    return Units(choices, reasons, _groups(task, reasons), _blocks(task, reasons))


def _measured(task: Task, units: Units) -> Measured:
    """One pass over the layers: estimates of every measure, and the errors of every choice."""
    recipe, members = task.recipe, units.in_groups
    estimates: dict[str, dict[str, Estimate]] = {name: {} for name in recipe.measures}
    errors: dict[str, tuple[candidates.Errors, ...]] = {}
    observations: dict[str, Observation] = {}
    with task.progress.phase("measure the layers", len(task.model.layers())) as step:
        for name, observation in task.observe(_needs(task, units)):
            step.advance()
            for measure, value in recipe.measures.items():
                if all(need in observation for need in value.needs):
                    estimates[measure][name] = value(observation)
            if name in members:
                observations[name] = observation
            if name in units.layers:
                errors[name] = _errors(observation, units.layers[name], recipe, units.decided)
    return Measured(estimates, errors, observations)


def _errors(observation: Observation, choices: Sequence[Choice], recipe: Recipe, decided: bool) -> tuple[candidates.Errors, ...]:
    """The errors of one layer's choices, in their order; not computed where there is nothing to compare."""
    if decided:
        return tuple(candidates.unmeasured(choice) for choice in choices)
    dense = [choice for choice in choices if choice.rank is None]
    thin = [choice for choice in choices if choice.rank is not None]
    return candidates.layer_errors(observation, dense, recipe) + low_rank_choices.rank_errors(observation, thin, recipe)


def file_bytes(layer: Layer, choice: Choice) -> float:
    """Bytes of a layer in the shipped file under a choice."""
    if choice.rank is None:
        return float(deployment.storage_bytes(layer.shape, choice.weight_bits, choice.granularity, choice.sparsity))
    halves = low_rank_choices.halves(layer, choice.rank)
    return float(
        sum(deployment.storage_bytes(half.shape, choice.weight_bits, choice.granularity) for half in halves) + SPLIT_BYTES
    )


def left_alone(
    layers: Sequence[Layer], places: Mapping[str, Sequence[Placement]], excluded: set[str], recipe: str
) -> dict[str, str]:
    """Layer -> why its weight is left as it is."""
    reasons = {}
    for layer in layers:
        if layer.left_alone:
            reasons[layer.name] = layer.left_alone
        elif layer.name in excluded:
            reasons[layer.name] = f"recipe '{recipe}' leaves it alone"
        elif not places.get(layer.name):
            reasons[layer.name] = "its weight is not an initializer of the exported graph (the exporter rewrote it)"
    return reasons


def _groups(task: Task, reasons: Mapping[str, str]) -> tuple[ChannelGroup, ...]:
    """Channel groups the recipe may shrink."""
    if not task.recipe.keeps:
        return ()
    layers = {layer.name: layer for layer in task.model.layers()}
    return tuple(
        group
        for group in channel_groups(task.model)
        if not any(name in reasons for name in (*group.producers, *group.consumers))
        and all(layers[name].groups == 1 for name in group.consumers)  # the refit sees one moment for all rows
    )


def _blocks(task: Task, reasons: Mapping[str, str]) -> tuple[ResidualBlock, ...]:
    """Residual blocks the recipe may drop."""
    if not task.recipe.blocks:
        return ()
    blocks = residual_blocks(task.model)
    return tuple(block for block in blocks if block.droppable and not any(name in reasons for name in block.layers))


def _structure(task: Task, units: Units, observations: Mapping[str, Observation]) -> dict[str, tuple[Option, ...]]:
    """The lines of channel groups and blocks, probed."""
    recipe, layers = task.recipe, {layer.name: layer for layer in task.model.layers()}
    table = {
        CHANNELS + group.name: structure_choices.channel_options(group, observations, recipe, task.target, file_bytes)
        for group in units.groups
    }
    table |= {BLOCKS + block.name: structure_choices.block_options(block, layers, recipe, file_bytes) for block in units.blocks}
    if not table:
        return {}
    with task.progress.phase("probe channels and blocks", len(table)) as step:
        return probes.probe_structure(task, table, step)


def _timed(task: Task, table: Mapping[str, tuple[Option, ...]]) -> tuple[dict[str, tuple[Option, ...]], float, float]:
    """The table with measured seconds, and those of the float32 file and of the shipped form; zeros where none are asked for."""
    if not task.recipe.latency_batch:
        return dict(table), 0.0, 0.0
    with task.progress.phase("time runs on this machine"):
        seconds = latency.latency_table(task, table)
    return latency.with_seconds(table, seconds), seconds.original, seconds.whole


def _needs(task: Task, units: Units) -> tuple[Need, ...]:
    """What has to be observed: the needs of the measures and, where there is a choice, those of errors and sensitivities."""
    recipe = task.recipe
    rounding = () if units.decided else (t for t in (recipe.pruner, recipe.quantizer) if t is not None)
    needs: set[Need] = {Weight(), *(need for tool in (*recipe.measures.values(), *rounding) for need in tool.needs)}
    if task.calibrated and not units.decided and ("fisher" in recipe.sensitivity or units.groups):
        needs |= {InputMoment(), OutputFisher()}
    return tuple(needs)


def _sensitivities(task: Task, source: str, measured: Measured) -> learned_prior.Sensitivities:
    """Log sensitivities, where theory supplies the distortions or a prior corrects Fisher information."""
    recipe, base = task.recipe, {"theory": "error", "fisher": "fisher"}.get(source)
    if base is None or not recipe.priors:
        return (
            learned_prior.by_coefficients(measured.estimates, recipe)
            if source == "theory"
            else learned_prior.Sensitivities({}, {})
        )
    with task.progress.phase("apply the learned prior", len(measured.errors)) as step:
        return learned_prior.by_prior(task, measured.estimates, measured.errors, base, step)


def _source_text(source: str, provenance: str | None) -> str:
    """The source of a unit's distortions, and the shares that theory and probes contributed."""
    return f"{source} ({provenance})" if provenance else source


def _source(task: Task, errors: Mapping[str, Sequence[candidates.Errors]]) -> str:
    """The first of the recipe's sensitivities that this model and these data allow."""
    flat = [e for row in errors.values() for e in row]
    possible = {
        "fisher": any(np.isfinite(e.output) for e in flat),
        "trajectory": any(np.isfinite(e.motion) for e in flat),
        "probe": task.calibrated,
        "theory": True,
    }
    for name in task.recipe.sensitivity:
        if possible[name]:
            return name
    raise _unread(task.recipe)


def _unread(recipe: Recipe) -> InvalidRequest:
    """The error where none of a recipe's sensitivities can be read."""
    wanted = " or ".join(recipe.sensitivity)
    needs = "a trajectory" if "trajectory" in recipe.sensitivity else "calibration data"
    text = f"recipe '{recipe.name}' reads sensitivities from {wanted}, which needs {needs}; give it, or add 'theory'."
    return InvalidRequest(text)


def _fixed_bytes(float_file: bytes, places: Mapping[str, Sequence[Placement]], task: Task) -> int:
    """Bytes of the shipped file that no choice changes, measured by writing a file."""
    recipe, target = task.recipe, task.target
    if recipe.quantizer is None or not places:
        layers = {layer.name: layer for layer in task.model.layers()}
        return len(float_file) - int(sum(file_bytes(layers[name], Choice()) for name in places))
    if recipe.activation_bits == FLOAT_BITS:
        target = replace(target, activation_dtype="float32")
    compares = target.kernel_times is not None and task.calibrated and target.activation_dtype != "float32"
    shapes = deployment.shapes_of_one(float_file, first_examples(task.batches, 1)[0]) if compares else None
    count = deployment.packed_overhead if recipe.steps else deployment.overhead
    return count(float_file, places, target, shapes)
