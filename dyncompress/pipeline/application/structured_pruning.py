"""Structured pruning: drop blocks, remove channels, and refit the later layers to compute what the original did.

Front to back, each layer after the first change is fitted by least squares: the original's output there, from the inputs that it
gets in the smaller network. Where its output closes a residual block, the sum with the shortcut counts, so
that one block makes up for what another no longer adds. The channels of a group are chosen when its reader is reached, by
elimination on the reader's inputs as they are by then; those of a group with several readers before, on the original's inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from dyncompress.errors import InvalidRequest
from dyncompress.linalg import damped, damped_cholesky
from dyncompress.pipeline.capabilities import channel_groups, residual_blocks
from dyncompress.pipeline.task import Task
from dyncompress.pruning.channels import Reader, eliminate_together, refit_columns
from dyncompress.types import (
    BLOCKS,
    CHANNELS,
    Array,
    Batch,
    Bias,
    ChannelGroup,
    Choice,
    Drop,
    InputMoment,
    Keep,
    Layer,
    LayerwiseCalibration,
    Model,
    Observation,
    ResidualMoments,
    SetWeight,
    Weight,
)

DAMPING = 1e-3  # share of the mean diagonal entry that draws a refit towards the old weight
METHOD = {CHANNELS: "eliminate + refit", BLOCKS: "drop + refit"}


def structural_choices(choices: Mapping[str, Choice]) -> dict[str, Choice]:
    """The choices that change the network's structure."""
    return {
        unit: choice
        for unit, choice in choices.items()
        if (unit.startswith(CHANNELS) and choice.keep is not None) or (unit.startswith(BLOCKS) and choice.drop)
    }


def restructure(
    task: Task, choices: Mapping[str, Choice], reach: int | None = None, *, flips: bool = False
) -> tuple[Task, dict[str, Choice]]:
    """Drop the blocks and remove the channels that the choices remove, and refit the later layers.

    Args:
        task: with calibration data.
        choices: by unit; those of layers, and of channels inside a dropped block, are ignored.
        reach: at most this many layers after the last change are refitted; None: all.
        flips: whether layers are refitted on horizontally flipped images too; ignored where `reach` is set, to keep probes quick.

    Returns:
        the task with the smaller model, and the realised choices (with indices) of blocks and channels.

    Raises:
        InvalidRequest: a unit that the model doesn't have, or a reader that can't be refitted.
    """
    asked = structural_choices(choices)
    if not asked:
        return task, {}
    model = task.model
    drops = [Drop(unit.removeprefix(BLOCKS)) for unit in asked if unit.startswith(BLOCKS)]
    gone = {name for block in residual_blocks(model) if Drop(block.name) in drops for name in block.layers} if drops else set()
    there = {layer.name for layer in model.layers()} - gone
    cut = {
        group.name: (group, asked[CHANNELS + group.name])
        for group in channel_groups(model)
        if CHANNELS + group.name in asked and group.producers[0] in there  # a dropped block takes its groups with it
    }
    affected = _affected(model, there, [group for group, _ in cut.values()], reach)
    fit = _Fit({name: o for name, o in model.observe((Weight(), Bias()), ()) if name in affected}, cut, _together(task, cut))
    data = with_flipped(task.batches) if flips and reach is None else task.batches
    refitted = model.in_sequence(data, affected, fit, dropped=drops) if isinstance(model, LayerwiseCalibration) else {}
    _refuse_unfitted(cut, refitted)
    edits = [SetWeight(name, weight, _shifted(fit.seen[name], shift)) for name, (weight, shift) in refitted.items()]
    keeps = [Keep(name, fit.kept[name]) for name in cut]
    realised = {BLOCKS + drop.block: replace(asked[BLOCKS + drop.block], method=METHOD[BLOCKS]) for drop in drops}
    for keep in keeps:
        unit = CHANNELS + keep.group
        realised[unit] = replace(asked[unit], keep=len(keep.indices), indices=keep.indices, method=METHOD[CHANNELS])
    return task.with_model(model.edited([*edits, *drops, *keeps])), realised


def with_flipped(batches: Sequence[Batch]) -> list[Batch]:
    """The batches, and images `[n, 1 or 3, h, w]` flipped horizontally as well: twice the data."""
    flipped = []
    for batch in batches:
        flipped.append(batch)
        tensors = {name: torch.as_tensor(value) for name, value in batch.items()}
        if all(t.ndim == 4 and t.shape[1] in (1, 3) and t.is_floating_point() for t in tensors.values()):
            flipped.append({name: t.flip(3) for name, t in tensors.items()})
    return flipped


def _affected(model: Model, there: set[str], cut: Sequence[ChannelGroup], reach: int | None) -> list[str]:
    """Layers to refit, front to back: readers of removed channels, and layers behind a change."""
    readers = {name for group in cut for name in group.consumers}
    affected: list[str] = []
    since: int | None = None
    for layer in model.layers():
        if layer.name not in there:
            since = 0
        elif layer.name in readers:
            since = 0
            affected.append(layer.name)
        elif since is not None:
            since += 1
            if _refittable(layer) and (reach is None or since <= reach):
                affected.append(layer.name)
    return affected


def _refittable(layer: Layer) -> bool:
    return not layer.left_alone and layer.has_inputs and layer.groups == 1


def _together(task: Task, cut: Mapping[str, tuple[ChannelGroup, Choice]]) -> dict[str, tuple[int, ...]]:
    """The channels to keep in groups with several readers, and in groups whose channels the plan names."""
    kept = {name: tuple(sorted(choice.indices)) for name, (_, choice) in cut.items() if choice.indices is not None}
    shared = {name: group for name, (group, _) in cut.items() if name not in kept and len(group.consumers) > 1}
    readers = {name for group in shared.values() for name in group.consumers}
    seen = {name: o for name, o in task.observe((Weight(), InputMoment())) if name in readers} if readers else {}
    for name, group in shared.items():
        parts = [Reader(seen[n][InputMoment()][0], _matrix(seen[n]), columns) for n, columns in group.consumers.items()]
        kept[name] = _chosen(group, parts, cut[name][1])
    return kept


def _chosen(group: ChannelGroup, readers: Sequence[Reader], choice: Choice) -> tuple[int, ...]:
    """The channels removed last by backward elimination."""
    order, _ = eliminate_together(readers, int(choice.keep or group.size))
    gone = {int(channel) for channel in order}
    return tuple(channel for channel in range(group.size) if channel not in gone)


@dataclass
class _Fit:
    """Refits one layer after the other by least squares.

    Attributes:
        seen: layer -> its weight and bias.
        cut: group's name -> the group that loses channels, and its choice.
        kept: group's name -> the channels that stay, once chosen.
    """

    seen: Mapping[str, Observation]
    cut: Mapping[str, tuple[ChannelGroup, Choice]]
    kept: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __call__(self, layer: str, moments: ResidualMoments) -> Array:
        """The layer's new weight, zero in the columns of removed channels."""
        observation = self.seen[layer]
        weight, mean = _matrix(observation), moments.mean[0].double()
        moment = moments.moment[0].double() - torch.outer(mean, mean)  # the bias restores the mean
        cross = moments.residual_cross_moment.double() - torch.outer(moments.residual_mean.double(), mean)
        factor = damped_cholesky(damped(moment, DAMPING), 0.0)
        new = weight + torch.cholesky_solve(cross.T, factor).T
        group, choice = next((pair for pair in self.cut.values() if layer in pair[0].consumers), (None, None))
        if group is not None and choice is not None:
            n = group.consumers[layer]
            if group.name not in self.kept:
                self.kept[group.name] = _chosen(group, [Reader(moment, new, n)], choice)
            columns = [channel * n + i for channel in self.kept[group.name] for i in range(n)]
            narrow = refit_columns(new, moment, columns, DAMPING)
            new = torch.zeros_like(new)
            new[:, columns] = narrow
        return new.reshape(observation.layer.shape)


def _refuse_unfitted(cut: Mapping[str, tuple[ChannelGroup, Choice]], refitted: Mapping[str, object]) -> None:
    for group, _ in cut.values():
        for name in group.consumers:
            if name not in refitted:
                raise InvalidRequest(
                    f"unit '{CHANNELS}{group.name}': '{name}', which reads it, can't be refitted by least squares (it is used "
                    "more than once, or its examples aren't independent); leave its keep out."
                )


def _matrix(observation: Observation) -> Array:
    """A layer's weight, `[out, K]` float64."""
    return observation[Weight()].detach().flatten(1).double()


def _shifted(observation: Observation, shift: Array) -> Array:
    """The bias with a shift of the output added."""
    bias = observation[Bias()]
    return shift if bias is None else bias + shift
