"""The lines of the table that replace a layer with two of lower rank: the ranks, their costs and their errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dyncompress.pipeline.application.round_layers import rounded_weight
from dyncompress.pipeline.profiling.candidates import Errors, fisher_distortion, motion_distortion, weight_change
from dyncompress.pruning import low_rank
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import Array, Choice, InputMoment, Layer, Need, Observation, Weight


def choices_by_rank(layer: Layer, recipe: Recipe, dense: Sequence[Choice]) -> tuple[Choice, ...]:
    """The low-rank choices beside the dense ones: each share of the full rank at each width, where it saves weights."""
    full = min(layer.out, layer.fan_in)
    ranks = sorted({max(1, round(share * full)) for share in recipe.ranks}, reverse=True)
    thin = [rank for rank in ranks if rank * (layer.out + layer.fan_in) < layer.weights]
    plain = [choice for choice in dense if not choice.sparsity and not choice.step]
    return tuple(replace(choice, rank=rank) for rank in thin for choice in plain)


def halves(layer: Layer, rank: int) -> tuple[Layer, Layer]:
    """The two layers that a layer of this rank becomes."""
    ones = (1,) * (len(layer.shape) - 2)
    inner = replace(layer, shape=(rank, *layer.shape[1:]), macs=round(layer.macs * rank / layer.out))
    return inner, replace(layer, shape=(layer.out, rank, *ones), macs=round(layer.macs * rank / layer.fan_in))


def rank_errors(observation: Observation, tried: Sequence[Choice], recipe: Recipe) -> tuple[Errors, ...]:
    """Split one layer at every rank, round both halves, and measure the errors of their product, in the order of the choices."""
    if not tried:
        return ()
    weight, ranks = observation[Weight()].detach().float(), tuple(dict.fromkeys(int(choice.rank or 1) for choice in tried))
    moment: Array | None = observation[InputMoment()] if InputMoment() in observation else None  # noqa: SIM401
    pairs = dict(zip(ranks, low_rank.factors(weight, None if moment is None else moment[0], ranks), strict=True))
    squares = weight.double().square().flatten().sort().values
    norm, rows = float(squares.sum()) or 1.0, []
    for choice in tried:
        inner, outer = pairs[int(choice.rank or 1)]
        whole, product = low_rank.factor_product(inner, outer), []
        moments = (None, None) if moment is None else (moment, low_rank.inner_moment(inner, moment))
        for layer, half, seen in zip(halves(observation.layer, len(inner)), (inner, outer), moments, strict=True):
            shaped = half.reshape(layer.shape)
            values: dict[Need, Array] = {Weight(): shaped}
            values.update({} if seen is None else {InputMoment(): seen})
            product.append(rounded_weight(Observation(layer, values), shaped, choice, recipe.quantizer)[0])
        new = low_rank.factor_product(product[0], product[1].flatten(1)).to(weight)
        error = float((weight - new).double().square().sum())
        one = Errors(
            choice=choice,
            pruning=float((weight - whole).double().square().sum()) / norm,
            rounding=float((whole - new).double().square().sum()) / norm,
            output=fisher_distortion(observation, weight, new),
            motion=motion_distortion(observation, weight, new),
            change=weight_change(squares, error, 0.0),
        )
        rows.append(one)
    return tuple(rows)
