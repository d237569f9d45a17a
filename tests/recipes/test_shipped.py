"""Every recipe and target that comes with the library loads, says whom it is for, and has its row in the README."""

from __future__ import annotations

import re

import pytest

from dyncompress.measures import MEASURES
from dyncompress.recipe.bundled_files import recipe_files, runner_file, target_files
from dyncompress.recipe.recipe import Recipe, rules_for
from dyncompress.recipe.toml_files import load_recipe, load_target
from dyncompress.types import FLOAT_BITS, Allocator, Measure, Pruner, Quantizer

EXPECTED = {"heavy-tail", "trajectory", "edge-int8", "edge-int4", "edge-int3", "edge-int2", "packed", "sparse", "smallest"}
EXPECTED |= {"fastest", "narrow", "certified", "demo"}
RECIPES, TARGETS = recipe_files(), target_files()
README = next(iter(RECIPES.values())).with_name("README.md").read_text(encoding="utf-8")


def test_they_are_there() -> None:
    assert set(RECIPES) == EXPECTED
    assert "onnxruntime-x86-vnni" in TARGETS
    assert runner_file().name == "runner.py"


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_loads_under_its_own_name(name: str) -> None:
    recipe = load_recipe(name)
    assert isinstance(recipe, Recipe) and recipe.name == name and recipe.summary
    assert isinstance(recipe.allocator, Allocator)
    assert recipe.pruner is None or isinstance(recipe.pruner, Pruner)
    assert recipe.quantizer is None or isinstance(recipe.quantizer, Quantizer)
    assert all(isinstance(measure, Measure) and type(measure) is MEASURES[key] for key, measure in recipe.measures.items())
    assert load_recipe(name) == recipe and repr(load_recipe(name)) == repr(recipe)
    assert rules_for(recipe, ["only"]).keys() <= {"only"}
    assert sorted(recipe.weight_bits, reverse=True) == list(recipe.weight_bits), "careful first"


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_tells_whom_it_is_for_and_how_to_run_it(name: str) -> None:
    head = RECIPES[name].read_text(encoding="utf-8").split("schema")[0]
    for word in ("# For: ", "# Needs: ", "# Does: ", "# Run: dyncompress "):
        assert word in head, word
    row = next(line for line in README.splitlines() if line.startswith(f"| [{name}]({name}.toml)"))
    assert row.count("|") == 6
    command = re.search(r"`(dyncompress [^`]+)`", row)
    assert command is not None and (name == "demo" or f"--recipe {name}" in command.group(1))


def test_recipes_keep_their_promises() -> None:
    """What the summaries say, read off the values."""
    free = load_recipe("heavy-tail")
    assert free.sensitivity == ("theory",) and not free.match and free.activation_bits == FLOAT_BITS
    assert all(value > 0 for value in free.coefficients["pruning"].values()), "lighter tails are pruned less"
    needs = [need for tool in (*free.measures.values(), free.pruner, free.quantizer) for need in tool.needs]  # type: ignore[union-attr]
    assert not any(type(need).__name__ in ("InputMoment", "OutputFisher", "OutputMoments", "Motion") for need in needs)
    assert load_recipe("trajectory").sensitivity[0] == "trajectory"
    assert load_recipe("smallest").budget.bytes and load_recipe("narrow").budget.macs and load_recipe("fastest").budget.seconds
    for name in ("certified", "demo"):
        recipe = load_recipe(name)
        assert recipe.budget.risk_increase and len(recipe.path) >= 5 and recipe.certificate.delta == 0.05


@pytest.mark.parametrize("name", TARGETS)
def test_target_loads_under_its_own_name(name: str) -> None:
    target = load_target(name)
    assert target.name == name and target.summary
    assert 8 in target.weight_bits


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", RECIPES)
def test_recipe_and_target_have_a_width_in_common(name: str, target: str) -> None:
    stored = set(load_target(target).weight_bits)
    recipe = load_recipe(name)
    if name.startswith("edge-int") and not stored & set(recipe.weight_bits):  # refused there by its own sentence
        assert stored == {8}
    else:
        assert not recipe.weight_bits or stored & set(recipe.weight_bits)
