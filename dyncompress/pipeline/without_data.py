"""Recipes carried out without calibration data, from the weights and from what their training left behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from dyncompress.quantization.input_prior import InputPrior
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import (
    FLOAT_BITS,
    Distillation,
    InputMoment,
    Need,
    Observation,
    OutputFisher,
    Weight,
)

# What only data can show, as the fields of a recipe: the value without data, and why.
WITHOUT: tuple[tuple[str, Any, str], ...] = (
    ("activation_bits", FLOAT_BITS, "activations stay float, since their ranges need examples"),
    ("keeps", (), "no channels are removed, since refitting needs examples"),
    ("blocks", False, "no blocks are dropped, since refitting needs examples"),
    ("sequential", False, "layers are fitted to their own outputs, not in sequence"),
    ("mirrored", False, ""),
    ("match", False, "moments aren't matched"),
    ("distill", Distillation(), "nothing is distilled"),
    ("measures", {}, "no measures are computed"),
    ("priors", {}, ""),
)


def without_data(recipe: Recipe) -> Recipe:
    """The part of a recipe that needs no calibration data, with distortions from the training run.

    Example:
        >>> from dyncompress.recipe.toml_files import load_recipe
        >>> recipe = without_data(load_recipe("edge-int4"))
        >>> recipe.activation_bits, recipe.weight_bits, recipe.sensitivity
        (32, (4,), ('trajectory', 'theory'))
    """
    return replace(recipe, sensitivity=("trajectory", "theory"), **{name: value for name, value, _ in WITHOUT})


def changes(recipe: Recipe) -> Iterator[str]:
    """A note on what of the recipe isn't done without data."""
    left = [why for name, value, why in WITHOUT if why and getattr(recipe, name) != value]
    if left:
        yield f"recipe '{recipe.name}' without calibration data, on the training run alone: {'; '.join(left)}"


def assumed_values(observation: Observation) -> Mapping[Need, Any]:
    """The moment of a layer's inputs and the Fisher information of its outputs that `InputPrior` derives from a training run."""
    weight, prior, kind = observation[Weight()], InputPrior(), observation.layer.kind
    rows, columns = prior.split(weight, observation)
    return {InputMoment(): prior.moment(columns, weight.shape, kind), OutputFisher(): rows}
