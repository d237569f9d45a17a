"""Every rule in a recipe, on a network: zeros in float weights, and bit widths at equal bytes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import dyncompress as dc
from dyncompress.allocation import RULES
from dyncompress.errors import InvalidRequest
from dyncompress.pipeline.profiling.candidates import worth_trying
from dyncompress.recipe.profile_file import profile_from_json, profile_to_json
from dyncompress.recipe.recipe import Recipe
from dyncompress.recipe.toml_files import load_recipe
from dyncompress.types import Choice, Layer
from tests import tiny

SPARSE = """
schema = 1
name = "zeros"
sensitivity = ["theory"]
[budget]
sparsity = 0.6
[allocator]
name = "NAME"
[prune]
name = "magnitude"
sparsities = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
[match]
moments = false
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


def recipe(folder: Path, name: str, **budget: float) -> Recipe:
    path = folder / f"{name}.toml"
    path.write_text(SPARSE.replace("NAME", name))
    return load_recipe(path, {f"budget.{key}": value for key, value in budget.items()})


@cache
def measured(folder: Path) -> dc.Profile:
    """A profile with all measures that the rules need."""
    text = SPARSE.replace("NAME", "knapsack")
    for name in ("esd_mid", "farms", "outlier_ratio", "hessian_trace"):
        text += f'[[measure]]\nname = "{name}"\n'
    path = folder / "all.toml"
    path.write_text(text)
    return dc.measure(tiny.network(), path, target=tiny.TARGET, calibration=tiny.CALIBRATION)


def zeros(plan: dc.Plan) -> float:
    sizes = {name: int(np.prod(plan.shapes[name])) for name in plan.asked}
    return sum(round(choice.sparsity * sizes[name]) for name, choice in plan.asked.items()) / sum(sizes.values())


@pytest.mark.parametrize("name", [*RULES, "knapsack", "uniform"])
def test_a_recipe_names_it_and_the_plan_has_the_zeros(name: str, folder: Path) -> None:
    one = recipe(folder, name)
    plan = dc.allocate(measured(folder), recipe=one)
    assert zeros(plan) >= 0.6 - 1e-3  # half a weight for each layer
    assert 0 <= plan.gap <= 1
    if name != "uniform":
        assert zeros(plan) < 0.7
    bolder = dc.allocate(measured(folder), dc.Budget(sparsity=0.8), recipe=one)
    assert zeros(bolder) >= 0.8 - 1e-3
    best = dc.allocate(measured(folder), recipe=recipe(folder, "knapsack"))
    assert best.distortion <= plan.distortion + 1e-12, "judged by the same table"


@pytest.mark.parametrize("name", ["lamp", "hawq"])
def test_what_a_rule_reads_is_measured_for_it(name: str, folder: Path) -> None:
    one = recipe(folder, name)
    assert set(one.measures) == set(RULES[name]().measures)
    profile = dc.measure(tiny.network(), one, target=tiny.TARGET, calibration=tiny.CALIBRATION)
    plan = dc.allocate(profile, recipe=one)
    small = dc.apply(tiny.network(), plan, recipe=one, target=tiny.TARGET, calibration=tiny.CALIBRATION)
    result = {unit: choice.sparsity for unit, choice in small.plan.realised.items()}
    assert result == {unit: pytest.approx(choice.sparsity, abs=0.01) for unit, choice in plan.asked.items()}
    assert dc.allocate(profile_from_json(profile_to_json(profile)), recipe=one) == plan


def test_measures_of_a_rule_keep_their_listed_fields(folder: Path) -> None:
    path = folder / "farms.toml"
    path.write_text(SPARSE.replace('"NAME"', '"alpha_pruning"\nmeasure = "farms"') + '[[measure]]\nname = "farms"\nwindow = 16\n')
    one = load_recipe(path)
    assert list(one.measures) == ["farms"] and one.measures["farms"].window == 16
    path.write_text(SPARSE.replace('"NAME"', '"alpha_pruning"\nmeasure = "farm"'))
    with pytest.raises(InvalidRequest, match=r"allocator: measure is 'farm'.*farms"):
        load_recipe(path)


def test_rules_share_widths_out_at_equal_bytes() -> None:
    profile = dc.measure(
        tiny.network(), load_recipe("heavy-tail", {"prune.sparsities": [0.0]}), target=tiny.TARGET, calibration=tiny.CALIBRATION
    )
    budget = dc.Budget(bytes=0.95 * dc.allocate(profile, dc.Budget()).cost["bytes"])
    widths = {}
    for name in ("equal_share", "equal_error", "depth_linear", "random_share"):
        plan = dc.allocate(profile, budget, recipe=load_recipe("heavy-tail", {"allocator.name": name}))
        assert plan.cost["bytes"] <= budget.bytes
        widths[name] = tuple(choice.weight_bits for choice in plan.asked.values())
    assert len(set(widths.values())) > 1 and all(min(result) < 8 for result in widths.values())


@pytest.mark.parametrize("sparsity", [0.0, 1.0, 60.0])
def test_a_share_of_zeros_is_a_share(folder: Path, sparsity: float) -> None:
    with pytest.raises(InvalidRequest, match=r"budget\.sparsity is .*a share of zeros in \(0, 1\)"):
        recipe(folder, "erk", sparsity=sparsity)


def test_zeros_in_float_weights_are_worth_trying_only_where_zeros_are_asked_for(folder: Path) -> None:
    """The file stores float weights in full, so that zeros don't reduce its bytes."""
    assert {len(options) for options in measured(folder).table.values()} == {10}
    layer, result = Layer("l", "linear", (8, 8), 64), (Choice(), Choice(sparsity=0.5))
    assert worth_trying(layer, result, lambda layer, choice: 256.0) == (Choice(),)


def test_zeros_are_counted_in_layers_alone() -> None:
    profile = dc.measure(tiny.network(), "narrow", target=tiny.TARGET, calibration=tiny.CALIBRATION)
    with pytest.raises(InvalidRequest, match=r"budget\.sparsity counts zeros in layers, and unit .* removes some"):
        dc.allocate(profile, dc.Budget(sparsity=0.5))
