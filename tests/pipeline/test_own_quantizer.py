"""A user's own quantizer, which is neither a dataclass nor known by name, works with every verb through its attributes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import dyncompress as dc
from dyncompress.pipeline.application.apply_plan import fit_to_target
from dyncompress.quantization import Entropy, Grid, Nearest
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import Choice, Encoding, Need, Observation, Quantizer, Weight
from tests import tiny
from tests.tiny import CALIBRATION, network


class Halved:
    """Rounds to nearest on its own scale, always in 4 bits."""

    entropy_coded = False
    sketch: Quantizer | None = None

    def __init__(self, grid: Grid | None = None) -> None:
        self.limits = grid or Grid()

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Weight(),)

    def on_grid(self, grid: Grid) -> Halved:
        return Halved(grid)

    def __call__(self, weight: Any, observation: Observation, choice: Choice) -> Encoding:
        return Nearest(self.limits)(weight, observation, replace(choice, weight_bits=4))


class Coded(Halved):
    """Rounds by step sizes, and uses a faster method for the table."""

    entropy_coded = True

    @property
    def sketch(self) -> Quantizer:  # type: ignore[override]
        return Entropy(rows=0.0)

    def on_grid(self, grid: Grid) -> Coded:
        return Coded(grid)

    def __call__(self, weight: Any, observation: Observation, choice: Choice) -> Encoding:
        return Entropy(grid=self.limits)(weight, observation, choice)


def recipe(quantizer: Any, **changed: Any) -> Recipe:
    return Recipe("mine", quantizer=quantizer, match=False, activation_bits=8, **changed)


def test_it_goes_through_measure_allocate_apply_and_export() -> None:
    mine = recipe(Halved(), weight_bits=(8,), sensitivity=("theory",))
    file = dc.compress(network(), mine, calibration=CALIBRATION)
    assert {choice.weight_bits for choice in file.plan.asked.values()} == {8}
    assert {choice.weight_bits for choice in file.plan.realised.values()} == {4}, "what it did, not what was asked"
    assert {choice.method for choice in file.plan.realised.values()} == {"Halved"}


def test_its_grid_follows_the_target() -> None:
    target = replace(dc.load_target(tiny.TARGET), power_of_two_scales=True, weight_symmetric_range=False)
    found = fit_to_target(recipe(Halved(), weight_bits=(8,)), target).quantizer
    assert isinstance(found, Halved) and found.limits == Grid(power_of_two=True, full_range=True)


def test_steps_follow_its_attributes_and_tables_its_sketch(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ({"weight_bits": (8,), "steps": (0.1,)}, {"weight_bits": (8,)}):
        with pytest.raises(dc.InvalidRequest, match=r"codes? by entropy"):
            recipe(Coded() if "steps" not in wrong else Halved(), **wrong)
    mine = recipe(Coded(), weight_bits=(8,), steps=(0.05, 0.2))
    monkeypatch.setattr(Coded, "__call__", lambda *_: pytest.fail("the table is the sketch's"))
    profile = dc.measure(network(), mine, target=tiny.TARGET, calibration=CALIBRATION)
    monkeypatch.undo()
    plan = dc.allocate(profile, dc.Budget(bytes=0.4), recipe=mine)
    assert all(choice.step for choice in dc.apply(network(), plan, recipe=mine, calibration=CALIBRATION).plan.realised.values())


def test_a_quantizer_without_a_required_attribute_is_refused() -> None:
    class Bare:
        needs = (Weight(),)

        def __call__(self, weight: torch.Tensor, observation: Observation, choice: Choice) -> Encoding:
            raise AssertionError

    with pytest.raises(dc.InvalidRequest, match=r"quantizer Bare has no entropy_coded, sketch, on_grid; types\.Quantizer says"):
        recipe(Bare(), weight_bits=(8,))


@pytest.mark.parametrize(("symmetric", "lowest"), [(True, -127), (False, -128)])
def test_its_weights_use_the_range_of_the_target(symmetric: bool, lowest: int) -> None:
    target = replace(dc.load_target(tiny.TARGET), weight_symmetric_range=symmetric)
    small = dc.apply(network(), tiny.plan(), target=target, calibration=CALIBRATION)
    codes = {int(encoding.codes.min()) for encoding in small.encodings.values() if encoding.bits == 8}
    assert min(codes) == lowest
    assert dc.export(small, target=target).body
