"""What `measure` does: one pass over the layers gives the estimates, the exact errors of every choice, and their costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dyncompress import deployment
from dyncompress.allocation.cost import UNMEASURED
from dyncompress.errors import InvalidRequest
from dyncompress.pipeline.application.apply_plan import fitted
from dyncompress.pipeline.profiling import candidates, latency, learned_prior, low_rank_choices, probes, structure_choices
from dyncompress.pipeline.task import Opened, first_examples, with_run
from dyncompress.recipe.recipe import Recipe, rules_for
from dyncompress.types import (
    BLOCKS,
    CHANNELS,
    FLOAT_BITS,
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
    Target,
    Trajectory,
    Weight,
)
from dyncompress.types.progress import Progress

Considered = Callable[[Layer, Sequence[Choice], candidates.Bytes], tuple[Choice, ...]]

SPLIT_BYTES = 120  # of the graph: one more operator, its output's grid, and the names of both


@dataclass(frozen=True)
class Setting:
    """What a profile is made of.

    Attributes:
        model: opened, with its data and the recorded run, if there is one.
        recipe, target: values.
    """

    model: Opened
    recipe: Recipe
    target: Target

    @property
    def calibrated(self) -> bool:
        """Whether there are calibration data."""
        return self.model.calibrated


def profiled(
    model: Opened,
    recipe: Recipe,
    target: Target,
    trajectory: Trajectory | str | Path | None,
    progress: Progress,
    *,
    considered: Considered = candidates.worth_trying,
) -> Profile:
    """Observe every layer once, and tabulate.

    Where `considered` leaves every layer one choice there is nothing to compare: errors and sensitivities aren't computed, and
    only what the measures read is observed.
    """
    model, recipe = with_run(model, trajectory), fitted(recipe, target)
    setting, door = Setting(model, recipe, target), model.door
    given = {"theory": True, "trajectory": model.run is not None, "fisher": model.calibrated, "probe": model.calibrated}
    if not any(given[name] for name in recipe.sensitivity):
        raise _unread(recipe)
    layers = door.layers()
    rules = rules_for(recipe, [layer.name for layer in layers])
    with progress.phase("export the original"):
        float_file, places = door.to_onnx(first_examples(model.batches, 2)[0])
    reasons = left_alone(layers, places, {name for name, rule in rules.items() if rule.leave_alone}, recipe.name)
    groups = _groups(setting, reasons)
    blocks = _blocks(setting, reasons)
    readers = {name for group in groups for name in (*group.producers, *group.consumers)}
    weights = sum(layer.weights for layer in layers if layer.name not in reasons)
    price = file_bytes if recipe.budget.sparsity is None else candidates.bits_left
    splits = door.factorable if recipe.ranks else frozenset()

    def allowed(layer: Layer) -> tuple[Choice, ...]:
        found = candidates.choices(layer, recipe, target, rules.get(layer.name), weights)
        return (*found, *low_rank_choices.ranked(layer, recipe, found)) if layer.name in splits else found

    tried = {layer.name: considered(layer, allowed(layer), price) for layer in layers if layer.name not in reasons}
    by_name = {layer.name: layer for layer in layers}
    with progress.phase("count the bytes that stay fixed"):
        placed = {name: places[name] for name in tried}
        float_bytes, fixed = len(float_file), _fixed_bytes(float_file, placed, by_name, target, recipe)
        del float_file  # as large as the model
    decided = not groups and not blocks and all(len(found) == 1 for found in tried.values())
    estimates: dict[str, dict[str, Estimate]] = {name: {} for name in recipe.measures}
    errors: dict[str, tuple[candidates.Errors, ...]] = {}
    kept: dict[str, Observation] = {}
    with progress.phase("measure the layers", len(layers)) as step:
        for name, observation in model.observe(_needs(setting, bool(groups), decided)):
            step.advance()
            for measure, value in recipe.measures.items():
                if all(need in observation for need in value.needs):
                    estimates[measure][name] = value(observation)
            if name in readers:
                kept[name] = observation
            if name in tried and decided:
                errors[name] = tuple(candidates.unmeasured(choice) for choice in tried[name])
            elif name in tried:
                dense, thin = ([c for c in tried[name] if (c.rank is None) == kept] for kept in (True, False))
                errors[name] = candidates.layer_errors(observation, dense, recipe)
                errors[name] += low_rank_choices.rank_errors(observation, thin, recipe)
    source = UNMEASURED if decided else _source(setting, errors)
    sensed = _sensed(setting, source, estimates, errors, progress)
    probed = {}
    if source == "probe":
        with progress.phase("probe the layers", len(errors)) as step:
            probed = probes.layer_rates(model, recipe, errors, step)
    harm = candidates.harms(errors, source, sensed.log, probed)
    table: dict[str, tuple[Option, ...]] = {
        name: candidates.layer_options(by_name[name], found, harm[name], file_bytes) for name, found in errors.items()
    }
    table |= _structure(setting, groups, blocks, kept, progress)
    table, seconds, whole_seconds = _measured(setting, table, progress)
    return Profile(
        layers=layers,
        estimates={name: found for name, found in estimates.items() if found},
        table=table,
        source={unit: "probe" if unit.startswith(STRUCTURE) else _told(source, sensed.said.get(unit)) for unit in table},
        reasons=reasons,
        float_bytes=float_bytes,
        fixed_bytes=SEAL_BYTES + fixed,
        macs=door.macs,
        digest=door.state_digest,
        recipe=recipe.name,
        target=target.name,
        notes=(*door.notes, *(model.run.notes if model.run else ()), *filter(None, [deployment.matches_target(target)])),
        seconds=seconds,
        whole_seconds=whole_seconds,
    )


def profiled_for_budget(
    model: Opened, recipe: Recipe, target: Target, trajectory: Trajectory | str | Path | None, progress: Progress
) -> Profile:
    """What the recipe's own budgets are solved from; where none asks for less, every layer's most careful choice alone."""
    if recipe.path or recipe.budget != Budget():
        return profiled(model, recipe, target, trajectory, progress)
    whole = replace(recipe, keeps=(), blocks=False)
    return profiled(model, whole, target, trajectory, progress, considered=candidates.most_careful)


def file_bytes(layer: Layer, choice: Choice) -> float:
    """What a layer takes in the shipped file under a choice."""
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


def share_left_alone(layers: Sequence[Layer], reasons: Mapping[str, str]) -> dict[str, float]:
    """The share of weights and of MACs that no choice touches, fractions."""
    weights, macs = sum(layer.weights for layer in layers), sum(layer.macs for layer in layers)
    alone = [layer for layer in layers if layer.name in reasons]
    return {
        "weights": sum(layer.weights for layer in alone) / max(weights, 1),
        "macs": sum(layer.macs for layer in alone) / max(macs, 1),
    }


def _groups(setting: Setting, reasons: Mapping[str, str]) -> tuple[ChannelGroup, ...]:
    """Channel groups the recipe may shrink."""
    if not setting.recipe.keeps:
        return ()
    layers = {layer.name: layer for layer in setting.model.door.layers()}
    return tuple(
        group
        for group in setting.model.door.channel_groups()
        if not any(name in reasons for name in (*group.producers, *group.consumers))
        and all(layers[name].groups == 1 for name in group.consumers)  # the refit sees one moment for all rows
    )


def _blocks(setting: Setting, reasons: Mapping[str, str]) -> tuple[ResidualBlock, ...]:
    """Residual blocks the recipe may drop."""
    if not setting.recipe.blocks:
        return ()
    blocks = setting.model.door.residual_blocks()
    return tuple(block for block in blocks if block.droppable and not any(name in reasons for name in block.layers))


def _structure(
    setting: Setting,
    groups: Sequence[ChannelGroup],
    blocks: Sequence[ResidualBlock],
    kept: Mapping[str, Observation],
    progress: Progress,
) -> dict[str, tuple[Option, ...]]:
    """The lines of channel groups and blocks, probed."""
    recipe, layers = setting.recipe, {layer.name: layer for layer in setting.model.door.layers()}
    table = {
        CHANNELS + group.name: structure_choices.channel_options(group, kept, recipe, setting.target, file_bytes)
        for group in groups
    }
    table |= {BLOCKS + block.name: structure_choices.block_options(block, layers, recipe, file_bytes) for block in blocks}
    if not table:
        return {}
    with progress.phase("probe channels and blocks", len(table)) as step:
        return probes.structure_probed(setting.model, table, step)


def _measured(
    setting: Setting, table: Mapping[str, tuple[Option, ...]], progress: Progress
) -> tuple[dict[str, tuple[Option, ...]], float, float]:
    """The table with measured seconds, and those of the float32 file and of the shipped form; zeros where none are asked for."""
    if not setting.recipe.latency_batch:
        return dict(table), 0.0, 0.0
    with progress.phase("time runs on this machine"):
        found = latency.latency_table(setting.model, table, setting.recipe, setting.target)
    return latency.with_seconds(table, found), found.original, found.whole


def _needs(setting: Setting, channels: bool, decided: bool) -> tuple[Need, ...]:
    """What has to be observed: by the measures and, where there is something to decide, for errors and sensitivities."""
    recipe = setting.recipe
    rounding = () if decided else (t for t in (recipe.pruner, recipe.quantizer) if t is not None)
    needs: set[Need] = {Weight(), *(need for tool in (*recipe.measures.values(), *rounding) for need in tool.needs)}
    if setting.calibrated and not decided and ("fisher" in recipe.sensitivity or channels):
        needs |= {InputMoment(), OutputFisher()}
    return tuple(needs)


def _sensed(
    setting: Setting,
    source: str,
    estimates: Mapping[str, Mapping[str, Estimate]],
    errors: Mapping[str, Sequence[candidates.Errors]],
    progress: Progress,
) -> learned_prior.Sensed:
    """What theory says where harm comes from it, or where a prior corrects Fisher information."""
    recipe, base = setting.recipe, {"theory": "error", "fisher": "fisher"}.get(source)
    if base is None or not recipe.priors:
        return learned_prior.by_coefficients(estimates, recipe) if source == "theory" else learned_prior.Sensed({}, {})
    with progress.phase("apply the learned prior", len(errors)) as step:
        return learned_prior.by_prior(setting.model, recipe, setting.model.door.layers(), estimates, errors, base, step)


def _told(source: str, said: str | None) -> str:
    """The source of a unit's harms, and what theory and probes contributed."""
    return f"{source} ({said})" if said else source


def _source(setting: Setting, errors: Mapping[str, Sequence[candidates.Errors]]) -> str:
    """The first of the recipe's sensitivities that this model and these data allow."""
    flat = [e for found in errors.values() for e in found]
    possible = {
        "fisher": any(np.isfinite(e.output) for e in flat),
        "trajectory": any(np.isfinite(e.motion) for e in flat),
        "probe": setting.calibrated,
        "theory": True,
    }
    for name in setting.recipe.sensitivity:
        if possible[name]:
            return name
    raise _unread(setting.recipe)


def _unread(recipe: Recipe) -> InvalidRequest:
    """The error where none of a recipe's sensitivities can be read."""
    wanted = " or ".join(recipe.sensitivity)
    needs = "a trajectory" if "trajectory" in recipe.sensitivity else "calibration data"
    text = f"recipe '{recipe.name}' reads sensitivities from {wanted}, which needs {needs}; give it, or add 'theory'."
    return InvalidRequest(text)


def _fixed_bytes(
    float_file: bytes, places: Mapping[str, Sequence[Placement]], layers: Mapping[str, Layer], target: Target, recipe: Recipe
) -> int:
    """What the shipped file holds whatever is chosen, by writing one."""
    if recipe.quantizer is None or not places:
        return len(float_file) - int(sum(file_bytes(layers[name], Choice()) for name in places))
    if recipe.activation_bits == FLOAT_BITS:
        target = replace(target, activation_dtype="float32")
    if recipe.steps:
        return deployment.packed_overhead(float_file, places, target)
    return deployment.overhead(float_file, places, target)
