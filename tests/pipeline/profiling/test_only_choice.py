"""Unneeded work is skipped: without a budget no options are compared, and only what the recipe needs is observed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import dyncompress as dc
from dyncompress.allocation.cost import UNMEASURED
from dyncompress.pipeline.observed_model import first_examples
from dyncompress.pipeline.profiling.profile import profile_for_budget
from dyncompress.recipe.toml_files import load_recipe
from dyncompress.types import InputMoment, OutputFisher, Weight
from tests import tiny
from tests.tiny import CALIBRATION, network


def observed(monkeypatch: pytest.MonkeyPatch) -> list[set[type]]:
    """The needs of every observation of a model adapter."""
    from dyncompress.models.torch.model import TorchModel

    asked: list[set[type]] = []
    observe = TorchModel.observe

    def seen(self: TorchModel, needs: tuple, *args: object, **kwargs: object) -> object:
        asked.append({type(need) for need in needs})
        return observe(self, needs, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(TorchModel, "observe", seen)
    return asked


def test_without_a_budget_the_plan_compresses_least_and_nothing_is_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = observed(monkeypatch)
    recipe = load_recipe("edge-int8")
    start = tiny.task(network(), recipe, CALIBRATION)
    profile = profile_for_budget(start)
    plan = dc.allocate(profile)
    assert asked == [{Weight}]
    assert set(profile.source.values()) == {UNMEASURED} and set(plan.why.values()) == {"the only option"}
    compared = dc.allocate(tiny.profile())
    assert plan.asked == compared.asked and plan.cost == compared.cost


def test_with_a_budget_options_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = observed(monkeypatch)
    recipe = load_recipe("edge-int8", {"budget.bytes": 0.5})
    profile = profile_for_budget(tiny.task(network(), recipe, CALIBRATION))
    assert asked == [{Weight, InputMoment, OutputFisher}] and max(map(len, profile.table.values())) > 1


def test_a_recipe_may_observe_fewer_examples() -> None:
    recipe = replace(load_recipe("edge-int8"), observed=32)
    some = tiny.task(network(), recipe, CALIBRATION)
    every = tiny.task(network(), replace(recipe, observed=0), CALIBRATION)
    first = dict(some.observe((InputMoment(),)))["conv1"][InputMoment()]
    direct = dict(some.model.observe((InputMoment(),), first_examples(some.batches, 32)))["conv1"][InputMoment()]
    assert torch.equal(first, direct)
    assert not torch.allclose(first, dict(every.observe((InputMoment(),)))["conv1"][InputMoment()], rtol=1e-3)
    assert sum(len(batch["x"]) for batch in some.batches) == len(CALIBRATION), "ranges still see all of them"


def test_observing_a_negative_number_of_examples_is_refused() -> None:
    with pytest.raises(dc.InvalidRequest, match=r"calibration\.observed"):
        load_recipe("edge-int8", {"calibration.observed": -1})
