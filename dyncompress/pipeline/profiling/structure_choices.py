"""The lines of the table that change the network's structure: channels of a group, and whole residual blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dyncompress.pruning.channels import eliminate
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import (
    FLOAT_BITS,
    ChannelGroup,
    Choice,
    InputMoment,
    Layer,
    Observation,
    Option,
    OutputFisher,
    ResidualBlock,
    Target,
    Weight,
)

Bytes = Callable[[Layer, Choice], float]


def channel_options(
    group: ChannelGroup, observations: Mapping[str, Observation], recipe: Recipe, target: Target, file_bytes: Bytes
) -> tuple[Option, ...]:
    """The lines of one channel group: keep counts on the target's grid (of heads every one), and what they save in this group.

    The distortion is the consumers' output error after the least-squares refit, weighted by Fisher information.
    """
    wanted = keep_counts(group.size, recipe.keeps, 1 if group.rows else target.channel_multiple)
    distortions = np.zeros(len(wanted))
    for name, columns in group.consumers.items():
        observation = observations[name]
        weight = observation[Weight()].detach().float().reshape(observation.layer.out, -1)
        moment = observation[InputMoment()][0]
        _, error = eliminate(moment, weight, columns, min(wanted))
        power = float(((weight.double() @ moment.double()) * weight.double()).sum(-1).mean())
        fisher = float(observation[OutputFisher()].double().sum()) if OutputFisher() in observation else 1.0 / max(power, 1e-30)
        removed = [0.0, *[float(e) for e in error]]
        distortions += np.array([0.5 * fisher * power * removed[group.size - keep] for keep in wanted])
    involved = [observations[name].layer for name in (*group.producers, *group.consumers)]
    nominal = Choice(weight_bits=max(recipe.weight_bits or (FLOAT_BITS,)))
    weights = sum(file_bytes(layer, nominal) for layer in involved)
    macs = sum(layer.macs for layer in involved)
    return tuple(
        Option(
            choice=Choice(keep=keep if keep < group.size else None),
            bytes=-weights * (1 - keep / group.size),
            macs=-macs * (1 - keep / group.size),
            distortion=float(value),
        )
        for keep, value in zip(wanted, distortions, strict=True)
    )


def keep_counts(size: int, shares: Sequence[float], multiple: int) -> list[int]:
    """Distinct channel counts, the full width first, each a multiple of the target's grid where the layer is wide enough."""
    step = multiple if size > multiple else max(1, size // 4)
    counts = {size} | {max(step, round(size * share / step) * step) for share in shares}
    return sorted((c for c in counts if c <= size), reverse=True)


def block_options(block: ResidualBlock, layers: Mapping[str, Layer], recipe: Recipe, file_bytes: Bytes) -> tuple[Option, ...]:
    """The lines of one residual block: kept, or dropped with all its layers; a probe measures the distortion later."""
    inside = [layers[name] for name in block.layers]
    nominal = Choice(weight_bits=max(recipe.weight_bits or (FLOAT_BITS,)))
    weights, macs = sum(file_bytes(layer, nominal) for layer in inside), sum(layer.macs for layer in inside)
    return (
        Option(choice=Choice(), bytes=0.0, macs=0.0, distortion=0.0),
        Option(choice=Choice(drop=True), bytes=-weights, macs=-float(macs), distortion=float("inf")),
    )
