"""From a plan to weights: one layer's pruning and rounding, removal of channels with refit, and the encodings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dyncompress.models.torch import TorchModel
from dyncompress.pruning.channels import eliminate, refit_columns
from dyncompress.quantization.grid import decode
from dyncompress.recipe import Recipe
from dyncompress.types import (
    FLOAT_BITS,
    Array,
    Batch,
    ChannelGroup,
    Choice,
    Encoding,
    InputMoment,
    Keep,
    Observation,
    Plan,
    SetWeight,
    Target,
    Weight,
)

CHANNELS = "channels:"  # prefix of a unit that is a channel group


def compressed_layer(
    observation: Observation, choice: Choice, recipe: Recipe, target: Target
) -> tuple[Array, Array, Encoding | None]:
    """Prune, then round, one layer.

    Returns:
        the pruned weight, the pruned and rounded weight, and its encoding (None where it stays float).
    """
    weight = observation[Weight()].detach().float()
    pruned = recipe.pruner(weight, observation, choice) if choice.sparsity and recipe.pruner is not None else weight
    if choice.weight_bits == FLOAT_BITS or recipe.quantizer is None:
        return pruned, pruned, None
    encoding = recipe.quantizer(pruned, observation, choice)
    return pruned, decode(encoding), encoding


def channels_removed(
    door: TorchModel, groups: Mapping[str, ChannelGroup], plan: Plan, batches: Sequence[Batch]
) -> tuple[TorchModel, dict[str, Choice]]:
    """Remove the channels a plan gives up, and refit what read them by least squares on the calibration moments.

    Returns:
        the smaller model, and the realised choices (with indices) of the channel units.
    """
    asked = {unit[len(CHANNELS) :]: choice for unit, choice in plan.asked.items() if unit.startswith(CHANNELS)}
    asked = {name: choice for name, choice in asked.items() if choice.keep is not None and choice.keep < groups[name].size}
    if not asked:
        return door, {}
    readers = {consumer for name in asked for consumer in groups[name].consumers}
    seen = {n: o for n, o in door.observe((Weight(), InputMoment()), batches) if n in readers}
    edits: list[SetWeight | Keep] = []
    realised = {}
    for name, choice in asked.items():
        group = groups[name]
        kept = choice.indices or _kept(group, seen, int(choice.keep or group.size))
        realised[CHANNELS + name] = replace(choice, keep=len(kept), indices=tuple(kept), method="eliminate + refit")
        edits += [_refitted(seen[consumer], columns, kept) for consumer, columns in group.consumers.items()]
        edits.append(Keep(name, tuple(kept)))
    return door.edited(edits), realised


def _kept(group: ChannelGroup, seen: Mapping[str, Observation], keep: int) -> list[int]:
    """The channels that stay: removed last by the first consumer's backward elimination."""
    consumer, columns = next(iter(group.consumers.items()))
    observation = seen[consumer]
    order, _ = eliminate(observation[InputMoment()][0], observation[Weight()].flatten(1), columns, keep)
    gone = {int(i) for i in order}
    return [c for c in range(group.size) if c not in gone]


def _refitted(observation: Observation, columns: int, kept: Sequence[int]) -> SetWeight:
    """The consumer's weight with the kept columns refitted and the others zero (the removal then drops them)."""
    weight = observation[Weight()].detach().float()
    matrix = weight.flatten(1)
    index = (np.asarray(kept)[:, None] * columns + np.arange(columns)).reshape(-1)
    new = matrix.new_zeros(matrix.shape)
    new[:, index] = refit_columns(matrix, observation[InputMoment()][0], index).to(new.dtype)
    return SetWeight(observation.layer.name, new.reshape(weight.shape))


def layers_compressed(
    door: TorchModel, plan: Plan, recipe: Recipe, target: Target, batches: Sequence[Batch]
) -> tuple[TorchModel, TorchModel, dict[str, Encoding], dict[str, Choice]]:
    """Prune and round every layer of the plan.

    Returns:
        the model after pruning alone, the model after rounding, the encodings, and the realised choices.
    """
    needs = {Weight(), *(n for tool in (recipe.pruner, recipe.quantizer) if tool is not None for n in tool.needs)}
    pruned_edits, edits, encodings, realised = [], [], {}, {}
    for name, observation in door.observe(tuple(needs), batches):
        choice = plan.asked.get(name)
        if choice is None or name in plan.reasons:
            continue
        pruned, new, encoding = compressed_layer(observation, choice, recipe, target)
        if choice.sparsity:
            pruned_edits.append(SetWeight(name, pruned))
        edits.append(SetWeight(name, new))
        if encoding is not None:
            encodings[name] = encoding
        realised[name] = replace(choice, sparsity=float((new == 0).float().mean()) if choice.sparsity else 0.0)
    after_pruning = door.edited(pruned_edits) if pruned_edits else door
    return after_pruning, door.edited(edits) if edits else door, encodings, realised


def rescaled(encodings: Mapping[str, Encoding], gains: Mapping[str, tuple[Array, Array]]) -> dict[str, Encoding]:
    """Moment matching's gains move into the scales: the integer codes stay as they are."""
    out = {}
    for name, encoding in encodings.items():
        if name in gains:
            gain = gains[name][0].to(encoding.scale)
            gain = gain[:, None] if encoding.scale.ndim == 2 else gain
            encoding = replace(encoding, scale=encoding.scale * gain)
        out[name] = encoding
    return out
