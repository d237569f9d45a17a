"""The additive table: for every unit and every choice that the target allows, what it costs and the distortion to expect.

A choice's error is exact: the recipe's own pruner and quantizer are applied to the layer. The sensitivity turns an error into a
distortion: from Fisher information, probes, the trajectory or theory, in the recipe's order of preference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dyncompress.allocation import distortion
from dyncompress.coding import code_length
from dyncompress.errors import InvalidRequest
from dyncompress.pipeline.application.round_layers import pruned_weight, rounded_weight
from dyncompress.quantization.input_prior import InputPrior
from dyncompress.recipe.choice_checks import fits_pattern
from dyncompress.recipe.recipe import LayerRule, Recipe
from dyncompress.types import (
    FLOAT_BITS,
    Array,
    Choice,
    Encoding,
    InputMoment,
    Layer,
    Observation,
    Option,
    OutputFisher,
    Target,
    Weight,
    WeightChange,
    WeightFisher,
)

Bytes = Callable[[Layer, Choice], float]
CHANNEL_BYTES = 1.0  # measured size of a coded scale; biases belong to the graph
MARGIN = 1.02  # layers in sequence get other codes than those that are tabulated


@dataclass(frozen=True)
class Errors:
    """The exact errors of one choice on one layer.

    Attributes:
        choice: the choice.
        pruning, rounding: squared Frobenius error of that step, relative to the squared norm of the weight.
        output: expected squared error of the layer's output in nats, weighted by Fisher information; nan without it.
        motion: expected squared error of the weights in nats, weighted by the Fisher information estimated from late
            increments; relative where the trajectory doesn't determine its scale, nan without a trajectory.
        bytes: size of the codes, where it depends on the codes themselves; else nan.
        change: what happens to the weight; None where nothing is compared.
    """

    choice: Choice
    pruning: float
    rounding: float
    output: float
    motion: float
    bytes: float = float("nan")
    change: WeightChange | None = None


def choices(layer: Layer, recipe: Recipe, target: Target, rule: LayerRule | None, weights: int = 1) -> tuple[Choice, ...]:
    """The choices that recipe, rule and target allow for a layer, from the most careful to the boldest.

    Args:
        layer: the layer to choose for.
        recipe, target, rule: what is allowed.
        weights: number of weights of the whole model, which sets the unit of the step sizes.
    """
    bits = (rule.weight_bits if rule and rule.weight_bits else careful(layer, recipe.weight_bits, target)) or (FLOAT_BITS,)
    allowed = [b for b in bits if b == FLOAT_BITS or b in target.weight_bits]
    if not allowed:
        raise InvalidRequest(
            f"layer '{layer.name}': target '{target.name}' stores {target.weight_bits} bits, recipe '{recipe.name}' asks for "
            f"{tuple(bits)}; allow a common width."
        )
    sparsities = (rule.sparsities if rule and rule.sparsities else recipe.sparsities) or (0.0,)
    if not layer.has_inputs or recipe.pruner is None or not fits_pattern(recipe.pattern, layer.shape):
        sparsities = (0.0,)
    finest = "channel" if layer.kind == "recurrent" else within(recipe.granularity, layer)
    granularity = "tensor" if target.weight_granularity == "tensor" else finest
    if recipe.steps:
        if 8 not in target.weight_bits or granularity != "channel":
            raise InvalidRequest(f"target '{target.name}' doesn't store 8 bits a channel, which entropy-coded weights unpack to.")
        unit = (24 / max(weights, 1)) ** 0.5
        coded = Choice(weight_bits=8, activation_bits=recipe.activation_bits)
        steps = sorted(recipe.steps)
        return tuple(replace(coded, step=unit * step) for step in (steps if layer.called else steps[:1]))
    return tuple(
        Choice(
            sparsity=sparsity,
            pattern=recipe.pattern if sparsity else "",
            weight_bits=width,
            granularity=granularity,
            activation_bits=recipe.activation_bits,
        )
        for sparsity in sorted(sparsities)
        for width in sorted(allowed, reverse=True)
    )


def careful(layer: Layer, bits: Sequence[int], target: Target) -> tuple[int, ...]:
    """The recipe's widths, with 8 bits in place of fewer for weights whose errors count for more than their own inputs show.

    The errors of recurrent weights recur at every time step; those of weights that no example reaches were never seen.
    """
    wide = layer.kind == "recurrent" or not layer.called
    return tuple(dict.fromkeys(max(b, 8) for b in bits)) if wide and 8 in target.weight_bits else tuple(bits)


def within(granularity: str, layer: Layer) -> str:
    """The granularity, with groups no longer than a row of the layer: `group:32` becomes `group:27` for rows of 27 weights."""
    return f"group:{min(int(granularity[6:]), layer.fan_in)}" if granularity.startswith("group:") else granularity


def worth_trying(layer: Layer, tried: Sequence[Choice], file_bytes: Bytes) -> tuple[Choice, ...]:
    """The choices, without those that take no fewer bytes than one with fewer zeros or more bits: they only add distortion.

    In a small layer the mask of the zeros, or the operators that unpack a narrow width, take more bytes than they save.
    """
    size = {c: file_bytes(layer, c) for c in tried}

    def in_vain(choice: Choice) -> bool:
        others = (c for c in tried if c != choice and _wider(c, choice))
        milder = (c for c in others if c.sparsity <= choice.sparsity and c.weight_bits >= choice.weight_bits)
        return not choice.step and any(size[c] <= size[choice] for c in milder)

    return tuple(c for c in tried if not in_vain(c))


def _wider(one: Choice, other: Choice) -> bool:
    """Whether a choice has no smaller rank than another."""
    return one.rank is None or (other.rank is not None and one.rank >= other.rank)


def bits_left(layer: Layer, choice: Choice) -> float:
    """Bits of the weights that aren't zero: the price of a choice under a sparsity budget, where float weights count in full."""
    return nonzeros(layer, choice) * choice.weight_bits


def nonzeros(layer: Layer, choice: Choice) -> int:
    """How many weights a choice leaves."""
    if choice.rank is not None:
        return choice.rank * (layer.out + layer.fan_in)
    return layer.weights - round(choice.sparsity * layer.weights)


def macs(layer: Layer, choice: Choice) -> float:
    """Multiply-accumulates of a layer, or of the two that take its place."""
    return float(layer.macs) if choice.rank is None else layer.macs * choice.rank * (1 / layer.out + 1 / layer.fan_in)


def most_careful(layer: Layer, tried: Sequence[Choice], file_bytes: Bytes) -> tuple[Choice, ...]:
    """The first choice alone, for recipes without a budget that asks for less."""
    return tuple(tried[:1])


def unmeasured(choice: Choice) -> Errors:
    """Placeholder for the errors of a layer's only choice, which is compared with no other."""
    return Errors(choice, pruning=0.0, rounding=0.0, output=float("nan"), motion=float("nan"))


def layer_errors(observation: Observation, tried: Sequence[Choice], recipe: Recipe) -> tuple[Errors, ...]:
    """Apply every choice to one layer and measure its errors."""
    weight = observation[Weight()].detach().float()
    norm = float(weight.double().square().sum()) or 1.0
    sorted_squares = weight.double().square().flatten().sort().values
    sketch = None if recipe.quantizer is None else recipe.quantizer.sketch
    quick = recipe.quantizer if sketch is None else sketch
    rows, masked = [], {}
    for choice in tried:
        key = (choice.sparsity, choice.pattern)
        if key not in masked:
            masked[key] = pruned_weight(observation, choice, recipe.pruner)
        pruned = masked[key]
        new, encoding = rounded_weight(observation, pruned, choice, quick)
        rows.append(
            Errors(
                choice=choice,
                pruning=float((weight - pruned).double().square().sum()) / norm,
                rounding=float((pruned - new).double().square().sum()) / norm,
                output=fisher_distortion(observation, weight, new),
                motion=motion_distortion(observation, weight, new),
                bytes=coded_bytes(encoding, on_paths=sketch is not None)
                if choice.step and encoding is not None
                else float("nan"),
                change=weight_change(sorted_squares, float((weight - new).double().square().sum()), choice.sparsity),
            )
        )
    return tuple(rows)


def weight_change(sorted_squares: Array, error: float, sparsity: float) -> WeightChange:
    """The squared error that zeroing the smallest weights would cause, beside the one that was caused.

    Args:
        sorted_squares: squares of the weights, ascending, `[n]` float64.
        error: squared error of the new weight.
        sparsity: share of zeros.
    """
    zeros = round(sparsity * len(sorted_squares))
    energy = float(sorted_squares.sum())
    left = float(sorted_squares[max(zeros - 1, 0) :].sum())
    threshold = float(sorted_squares[zeros - 1]) ** 0.5 if zeros else 0.0
    return WeightChange(energy=energy, error=error / (energy or 1.0), threshold=threshold, left=left)


def coded_bytes(encoding: Encoding, on_paths: bool = False) -> float:
    """Bytes of an entropy-coded layer in a container: its codes with a margin, and its scales.

    Args:
        encoding: the layer's encoding, on the grid.
        on_paths: whether the plan's codes will lie on paths of the trellis instead.
    """
    codes = encoding.codes.cpu().numpy()
    return MARGIN * code_length(codes, on_paths) / 8 + CHANNEL_BYTES * len(codes)


def fisher_distortion(observation: Observation, weight: Array, new: Array) -> float:
    """Half of sum_c fisher_c E[e_c^2], e after the best gain of the new channel, which moment matching supplies; nats."""
    if OutputFisher() not in observation or InputMoment() not in observation:
        return float("nan")
    error = channel_error(weight, new, observation[InputMoment()])
    return float(distortion.fisher(error.cpu().numpy(), observation[OutputFisher()].double().cpu().numpy()))


def channel_error(weight: Array, new: Array, moment: Array) -> Array:
    """E[(w x - a w' x)^2] of each output channel, with the gain a that makes it smallest, float64 `[out]`."""
    groups, fan_in = moment.shape[0], moment.shape[-1]
    old_rows, new_rows = (w.double().reshape(groups, -1, fan_in) for w in (weight, new))
    seen = new_rows @ moment.double()
    power = ((old_rows @ moment.double()) * old_rows).sum(-1)
    cross, own = (seen * old_rows).sum(-1), (seen * new_rows).sum(-1)
    explained = torch.where(own > 0, cross.clamp(min=0).square() / own.clamp(min=1e-300), torch.zeros_like(own))
    return (power - explained).clamp(min=0).reshape(-1)


def motion_distortion(observation: Observation, weight: Array, new: Array) -> float:
    """Half of sum_c F_c E[e_c^2], F_c from the increments of channel c's weights, and the inputs that `InputPrior` assumes.

    nan without a trajectory that determines it.
    """
    if WeightFisher() not in observation or not observation[WeightFisher()].any():
        return float("nan")
    prior = InputPrior()
    rows, columns = prior.split(weight, observation)
    return distortion.fisher(prior.energy(weight - new, columns, observation.layer.kind).cpu().numpy(), rows.cpu().numpy())


def distortions(
    errors: Mapping[str, Sequence[Errors]],
    source: str,
    log_sensitivity: Mapping[str, Mapping[str, float]],
    probed: Mapping[str, float],
) -> dict[str, list[float]]:
    """The distortion to expect of every choice, one list a layer, from the chosen source.

    With `trajectory`, zeros have the geometric mean of the run's distortion and their relative squared error in the run's unit.

    Args:
        errors: of every choice of every layer.
        source: `fisher`, `probe`, `trajectory` or `theory`.
        log_sensitivity: `pruning` and `quantization` -> layer -> log sensitivity, for `theory`, and for `fisher` where a prior
            corrects it; what is missing counts as 0.
        probed: layer -> nats for a unit of relative error, for `probe`.
    """
    flat = [e for row in errors.values() for e in row]
    unit = _median_ratio((e.output, e.motion) for e in flat)  # for layers that data say nothing about
    zeros = _median_ratio((e.motion, e.pruning + e.rounding) for e in flat if e.choice.sparsity)

    def sensed(kind: str, layer: str) -> float:
        """The layer's log sensitivity."""
        return log_sensitivity.get(kind, {}).get(layer, 0.0)

    def one(layer: str, e: Errors) -> float:
        """The distortion of one choice."""
        if source == "fisher":
            known = e.output if np.isfinite(e.output) else unit * e.motion
            return known * math.exp(sensed("pruning" if e.choice.sparsity else "quantization", layer))
        if source == "trajectory":
            # zeros are large errors, which curvature at the weights says too little about where gradients have vanished
            return math.sqrt(e.motion * zeros * (e.pruning + e.rounding)) if e.choice.sparsity else e.motion
        if source == "probe":
            return probed.get(layer, float("nan")) * (e.pruning + e.rounding)
        pruned = distortion.theory(e.pruning, sensed("pruning", layer))
        return pruned + distortion.theory(e.rounding, sensed("quantization", layer))

    table = {layer: [one(layer, e) for e in row] for layer, row in errors.items()}
    return _filled(table, errors)


def _median_ratio(pairs: Iterable[tuple[float, float]]) -> float:
    """The median of the ratios of positive numbers; nan if there are none."""
    ratios = [one / other for one, other in pairs if one > 0 and other > 0]
    return float(np.median(ratios)) if ratios else float("nan")


def _filled(table: dict[str, list[float]], errors: Mapping[str, Sequence[Errors]]) -> dict[str, list[float]]:
    """Layers without the source (an embedding has no input moment) get the median distortion for a unit of relative error."""
    rates = [
        value / (e.pruning + e.rounding)
        for layer, row in table.items()
        for value, e in zip(row, errors[layer], strict=True)
        if np.isfinite(value) and e.pruning + e.rounding > 0
    ]
    rate = float(np.median(rates)) if rates else 1.0
    return {
        layer: [h if np.isfinite(h) else rate * (e.pruning + e.rounding) for h, e in zip(row, errors[layer], strict=True)]
        for layer, row in table.items()
    }


def layer_options(layer: Layer, errors: Sequence[Errors], predicted: Sequence[float], file_bytes: Bytes) -> tuple[Option, ...]:
    """The lines of one layer's table."""
    return tuple(
        Option(
            choice=e.choice,
            bytes=e.bytes if np.isfinite(e.bytes) else file_bytes(layer, e.choice),
            macs=macs(layer, e.choice),
            distortion=h,
            nonzeros=nonzeros(layer, e.choice),
            change=e.change,
        )
        for e, h in zip(errors, predicted, strict=True)
    )
