"""Checks of a `Choice`, field by field, for a layer, a channel group and a residual block."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Sequence

from dyncompress.types import BLOCKS, CHANNELS, FLOAT_BITS, Choice

LAYER, GROUP, BLOCK = "layer", "channel group", "residual block"
KIND_OF = {  # field of a choice -> the kind of unit that has it; `method` records what was applied and is never chosen
    "keep": GROUP,
    "indices": GROUP,
    "drop": BLOCK,
    "rank": LAYER,
    "sparsity": LAYER,
    "pattern": LAYER,
    "weight_bits": LAYER,
    "step": LAYER,
    "granularity": LAYER,
    "activation_bits": LAYER,
    "method": "",
}
WIDTH_OF_STEPS = 8  # bits at which entropy-coded weights are stored in the ONNX file
LARGEST_STEP = 1e6  # every weight is rounded to zero at much smaller steps
TOLERANCE = 1e-3  # largest difference between a sparsity and the share of zeros of its pattern

Fault = tuple[str, str]  # the wrong field, and a sentence about it that doesn't name the unit


def kind_of(unit: str) -> str:
    """The kind of a unit, which its prefix determines: `layer`, `channel group` or `residual block`."""
    return GROUP if unit.startswith(CHANNELS) else BLOCK if unit.startswith(BLOCKS) else LAYER


def kind_fault(unit: str, choice: Choice) -> Fault | None:
    """A fault for the first field that is set and that another kind of unit has; None if there is none."""
    kind = kind_of(unit)
    for field in dataclasses.fields(Choice):
        value, owner = getattr(choice, field.name), KIND_OF[field.name]
        if value == field.default or owner == kind:
            continue
        shown = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else value
        if not owner:
            return field.name, f"{field.name} is {shown}; it records who applied a choice and can't be chosen; leave it out."
        return field.name, f"{field.name} is {shown}; it is chosen for a {owner} and this is a {kind}; leave it out."
    return None


def channels_fault(choice: Choice, size: int | None) -> Fault | None:
    """A fault for the first field that a channel group can't have; None if there is none.

    Args:
        choice: of the group.
        size: number of channels of the group; None: unknown, so that no upper limit is checked.
    """
    most, indices = size or math.inf, choice.indices
    if choice.keep is not None and not 1 <= choice.keep <= most:
        return "keep", f"keep is {choice.keep}; it has {size or 'at least 1'} channels."
    if indices is None:
        return None
    if choice.keep != len(indices) or len(set(indices)) != len(indices):
        return "indices", f"indices name {len(set(indices))} different channels and keep is {choice.keep}; they have to agree."
    if not all(0 <= channel < most for channel in indices):
        return "indices", f"indices reach beyond its {size or 'first'} channels."
    return None


def layer_fault(choice: Choice, shape: Sequence[int], weight_bits: Collection[int]) -> Fault | None:
    """A fault for the first field that a layer of this shape can't have; None if there is none.

    Args:
        choice: of the layer.
        shape: of its weight, `(out, in / groups, *kernel)`.
        weight_bits: widths in bits that may be stored; float is always possible.
    """
    fan_in = math.prod(shape[1:])
    full = min(shape[0], fan_in)
    if choice.rank is not None and not 1 <= choice.rank <= full:
        return "rank", f"rank is {choice.rank}; this layer can have a rank of 1 to {full}."
    if choice.weight_bits not in (*weight_bits, FLOAT_BITS):
        widths = ", ".join(map(str, sorted(weight_bits)))
        return "weight_bits", f"weight_bits is {choice.weight_bits}; {widths} or {FLOAT_BITS} (float) are possible."
    if not 0 <= choice.sparsity < 1:
        return "sparsity", f"sparsity is {choice.sparsity:g}; a share of zeros in [0, 1) is needed, e.g. 0.5."
    fault = _pattern_fault(choice, shape) or _step_fault(choice) or _granularity_fault(choice.granularity, fan_in)
    if fault is None and choice.activation_bits not in (8, FLOAT_BITS):
        return "activation_bits", f"activation_bits is {choice.activation_bits}; 8 or {FLOAT_BITS} (float) is needed."
    return fault


def fits_pattern(pattern: str, shape: Sequence[int]) -> bool:
    """Whether a weight of this shape has at least m inputs (`in / groups`) for an n:m pattern; True without a pattern."""
    return not pattern or len(shape) < 2 or int(pattern.partition(":")[2]) <= shape[1]


def _pattern_fault(choice: Choice, shape: Sequence[int]) -> Fault | None:
    """A pattern n:m determines the share of zeros, and needs at least m inputs."""
    if not choice.pattern:
        return None
    numbers = re.fullmatch(r"([1-9][0-9]{0,8}):([1-9][0-9]{0,8})", choice.pattern)
    kept, of = (int(number) for number in numbers.groups()) if numbers else (0, 0)
    if not 1 <= kept < of:
        return "pattern", f"pattern is '{choice.pattern}'; write '2:4', or leave it out."
    if not fits_pattern(choice.pattern, shape):
        return "pattern", f"pattern is '{choice.pattern}'; this layer has {shape[1]} inputs, fewer than {of}; leave it out."
    if abs(choice.sparsity - (1 - kept / of)) > TOLERANCE:
        share = 1 - kept / of
        return "pattern", f"pattern '{choice.pattern}' has {share:g} zeros, sparsity is {choice.sparsity:g}; use {share:g}."
    return None


def _step_fault(choice: Choice) -> Fault | None:
    """A step is finite, and weights with a step are stored at 8 bits with one scale for each channel."""
    if not 0 <= choice.step <= LARGEST_STEP:
        return "step", f"step is {choice.step:g}; 0 (a fixed width) to {LARGEST_STEP:g} is needed."
    if choice.step and choice.weight_bits != WIDTH_OF_STEPS:
        return "step", f"step is {choice.step:g} beside weight_bits = {choice.weight_bits}; a step needs weight_bits = 8."
    if choice.step and choice.granularity != "channel":
        return "step", f"step is {choice.step:g} beside granularity = '{choice.granularity}'; a step needs 'channel'."
    return None


def _granularity_fault(granularity: str, fan_in: int) -> Fault | None:
    """A scale belongs to the tensor, to a channel, or to a group of consecutive inputs of a channel."""
    if granularity in ("tensor", "channel"):
        return None
    size = re.fullmatch(r"group:([1-9][0-9]{0,8})", granularity)
    if size is None:
        return "granularity", f"granularity is '{granularity}'; 'tensor', 'channel' or 'group:32' is needed."
    if int(size.group(1)) > fan_in:
        return "granularity", f"granularity is '{granularity}'; a row of this layer has {fan_in} weights; use 'group:{fan_in}'."
    return None
