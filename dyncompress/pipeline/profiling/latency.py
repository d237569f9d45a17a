"""The measured time of a run on the target with fewer channels and blocks.

Whole files are timed, since kernels of different widths fuse, align and wait differently. Channel groups of the same form, and
blocks of the same form, are narrowed or dropped all at once, and the difference from the whole network is shared out among them:
few files, and a difference larger than the noise. Every round runs all files in turn, so that other load affects all equally.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dyncompress import deployment
from dyncompress.deployment.latency import Cut, cut_channels, nearest_integer_file
from dyncompress.pipeline.capabilities import channel_groups, residual_blocks
from dyncompress.pipeline.observed_model import as_numpy, first_examples
from dyncompress.pipeline.task import Task
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import (
    BLOCKS,
    CHANNELS,
    FLOAT_BITS,
    ChannelGroup,
    Choice,
    Drop,
    Edit,
    Keep,
    Layer,
    Model,
    OnnxFile,
    Option,
    Placement,
    Profile,
    ResidualBlock,
    Target,
)

ROUNDS = {1: 120}  # of batches of one; larger ones are steadier
FEW_ROUNDS = 25
NOISE = 0.005  # share of a run: a smaller difference between medians is noise on a machine with other work
RANGED = 8  # examples for activation ranges: their values don't change the time


@dataclass(frozen=True)
class LatencyTable:
    """Seconds of one run on the target, one thread.

    Attributes:
        original: of the float32 file.
        whole: of the shipped form, nothing removed.
        units: unit -> for each of its options, the difference from the whole unit.
        batch: examples a run.
    """

    original: float
    whole: float
    units: Mapping[str, tuple[float, ...]]
    batch: int


def latency_table(task: Task, table: Mapping[str, Sequence[Option]]) -> LatencyTable:
    """Time every structural option of a table.

    Args:
        task: with calibration data, of which the first examples are run; its recipe names the widths and `latency_batch`, its
            target the session options and integer forms.
        table: unit -> options; those of layers cost no time of their own.
    """
    model, batch = task.model, as_numpy(first_examples(task.batches, RANGED)[0])
    groups, blocks = channel_groups(model), residual_blocks(model)
    float_file, places = model.to_onnx(batch)
    writer = _Writer(batch, task.recipe, task.target)
    files, shares = {"original": float_file, "whole": writer(float_file, places)}, {}
    layers = {layer.name: layer for layer in model.layers()}
    for form, members in _forms(table, groups, blocks, layers).items():
        options = table[members[0]]
        for i, option in enumerate(options):
            edits = _edits(members, option.choice, groups)
            if edits:
                files[f"{form}:{i}"] = writer(*model.edited(edits).to_onnx(batch))
            elif option.choice.keep is not None:
                cuts = {k: v for unit in members for k, v in _cuts(unit, option, groups).items()}
                files[f"{form}:{i}"] = writer(cut_channels(float_file, places, cuts), places)
        shares.update({unit: (form, len(members), len(options)) for unit in members})
    size = task.recipe.latency_batch
    inputs = {name: np.resize(value, (size, *value.shape[1:])) for name, value in batch.items()}
    ratio, whole = _timed(files, inputs, task.target, ROUNDS.get(size, FEW_ROUNDS))
    change = {name: value - 1.0 if abs(value - 1.0) > NOISE else 0.0 for name, value in ratio.items()}
    units = {
        unit: tuple(change.get(f"{form}:{i}", 0.0) * whole / n for i in range(count)) for unit, (form, n, count) in shares.items()
    }
    return LatencyTable(ratio["original"] * whole, whole, units, size)


def seconds_of(task: Task, small: Model) -> float:
    """The time of a smaller network over that of the whole one, both in the shipped form."""
    batch = as_numpy(first_examples(task.batches, RANGED)[0])
    writer, size = _Writer(batch, task.recipe, task.target), max(1, task.recipe.latency_batch)
    files = {name: writer(*model.to_onnx(batch)) for name, model in (("whole", task.model), ("small", small))}
    inputs = {name: np.resize(value, (size, *value.shape[1:])) for name, value in batch.items()}
    return _timed(files, inputs, task.target, ROUNDS.get(size, FEW_ROUNDS))[0]["small"]


def seconds_of_file(task: Task, file: OnnxFile, profile: Profile) -> float:
    """The time of one run of a finished file: its ratio to the original's float32 file, times what that was measured to take."""
    batch = as_numpy(first_examples(task.batches, RANGED)[0])
    size = max(1, task.recipe.latency_batch)
    inputs = {name: np.resize(value, (size, *value.shape[1:])) for name, value in batch.items()}
    files = {"whole": task.model.to_onnx(batch)[0], "file": file.body}
    return profile.seconds * _timed(files, inputs, file.target, ROUNDS.get(size, FEW_ROUNDS))[0]["file"]


def with_seconds(table: Mapping[str, Sequence[Option]], measured: LatencyTable) -> dict[str, tuple[Option, ...]]:
    """The table with seconds; options that are no faster than a more careful one of the same unit are left out."""
    faster: dict[str, tuple[Option, ...]] = {}
    for unit, options in table.items():
        if unit not in measured.units:
            faster[unit] = tuple(options)
            continue
        kept: list[Option] = []
        for option, seconds in zip(options, measured.units[unit], strict=True):
            if not kept or seconds < kept[-1].seconds:
                kept.append(replace(option, seconds=seconds))
        faster[unit] = tuple(kept)
    return faster


@dataclass(frozen=True)
class _Writer:
    """Writes the shipped form of float graphs."""

    batch: Mapping[str, np.ndarray]
    recipe: Recipe
    target: Target

    def __call__(self, float_file: bytes, places: Mapping[str, Sequence[Placement]]) -> bytes:
        """The integer file of one graph."""
        integer = self.recipe.activation_bits != FLOAT_BITS
        target = self.target if integer else replace(self.target, activation_dtype="float32")
        ranges = deployment.ranges(float_file, [dict(self.batch)]) if integer else {}
        return nearest_integer_file(float_file, places, ranges, max(self.recipe.weight_bits or (FLOAT_BITS,)), target)


def _forms(
    table: Mapping[str, Sequence[Option]],
    groups: Sequence[ChannelGroup],
    blocks: Sequence[ResidualBlock],
    layers: Mapping[str, Layer],
) -> dict[str, list[str]]:
    """Form -> the units that have it: the same shapes, multiply-accumulates and options."""
    members = {CHANNELS + group.name: (*group.producers, *group.consumers) for group in groups}
    members |= {BLOCKS + block.name: block.layers for block in blocks}
    units_by_shape: dict[Any, list[str]] = {}
    for unit, options in table.items():
        if unit in members:
            shapes = tuple((layers[name].shape, layers[name].macs, layers[name].kind) for name in members[unit])
            units_by_shape.setdefault((unit.partition(":")[0], shapes, tuple(o.choice for o in options)), []).append(unit)
    return {units[0]: units for units in units_by_shape.values()}


def _edits(members: Sequence[str], choice: Choice, groups: Sequence[ChannelGroup]) -> list[Edit]:
    """The edits of units whose smaller file is exported: blocks, and groups whose layers hold more than a row a channel."""
    if choice.drop:
        return [Drop(unit.removeprefix(BLOCKS)) for unit in members]
    parted = [group.name for group in groups if CHANNELS + group.name in members and (group.rows or group.parts > 1)]
    return [] if choice.keep is None else [Keep(name, tuple(range(choice.keep))) for name in parted]


def _cuts(unit: str, option: Option, groups: Sequence[ChannelGroup]) -> dict[str, Cut]:
    """The rows and columns that the layers of a channel group keep."""
    group = next((g for g in groups if CHANNELS + g.name == unit), None)
    keep = option.choice.keep
    if group is None or keep is None:
        return {}
    cuts = {name: Cut(rows=keep) for name in group.producers}
    return cuts | {name: Cut(cuts.get(name, Cut()).rows, keep * n) for name, n in group.consumers.items()}


def _timed(
    files: Mapping[str, bytes], inputs: Mapping[str, np.ndarray], target: Target, rounds: int
) -> tuple[dict[str, float], float]:
    """File -> its time over that of `whole`, medians within rounds; and the median time of `whole`."""
    first = {"whole": files["whole"], **files}
    timings = deployment.compare(first, inputs, target, rounds=rounds)
    return {name: timing.relative for name, timing in timings.items()}, timings["whole"].median
