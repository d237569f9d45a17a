"""Ranks as options: exact table entries, allocation, application, export with two int8 layers, saving and loading."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

import dyncompress as dc
from dyncompress.allocation import RULES
from dyncompress.errors import InvalidRequest
from dyncompress.pipeline.checkpoint import load, save_compressed
from dyncompress.pipeline.profiling.candidates import worth_trying
from dyncompress.pipeline.profiling.low_rank_choices import choices_by_rank, halves
from dyncompress.pipeline.profiling.profile import file_bytes
from dyncompress.recipe.plan_file import plan_from_toml, plan_to_toml
from dyncompress.recipe.recipe import Recipe
from dyncompress.recipe.toml_files import load_recipe
from dyncompress.types import Choice, Layer, SetWeight, Weight
from tests import tiny

SHARES = (0.25, 0.5, 0.75)
RANKS = {"conv2": 4, "conv3": 8}


@cache
def recipe(widths: tuple[int, ...] = (8,)) -> Recipe:
    return load_recipe("edge-int8", {"channels.ranks": list(SHARES), "quantize.weight_bits": list(widths)})


@cache
def profile() -> dc.Profile:
    return dc.measure(tiny.network(), recipe(), target=tiny.TARGET, calibration=tiny.CALIBRATION)


@cache
def small() -> dc.Compressed:
    plan = dc.allocate(profile(), dc.Budget())
    asked = {unit: replace(choice, rank=RANKS.get(unit)) for unit, choice in plan.asked.items()}
    return dc.apply(tiny.network(), replace(plan, asked=asked), recipe=recipe(), target=tiny.TARGET, calibration=tiny.CALIBRATION)


@cache
def file() -> dc.OnnxFile:
    return dc.export(small())


def test_ranks_are_in_the_table_with_their_costs() -> None:
    table = profile().table
    found = {unit: [option.choice.rank for option in options] for unit, options in table.items()}
    assert found["conv3"] == found["conv2"] == [None, 8, 4], "three quarters of the rank save no bytes"
    assert found["head"] == [None], "what is small takes more bytes as two"
    for option, rank in zip(table["conv3"][1:], (8, 4), strict=True):
        assert option.nonzeros == rank * (16 + 144)
        assert option.macs == 16 * rank * (16 + 144)  # 4 x 4 positions
        assert option.bytes < table["conv3"][0].bytes
    distortions = [option.distortion for option in table["conv3"]]
    assert distortions == sorted(distortions) and distortions[0] > 0


def test_a_budget_of_multiply_accumulates_uses_ranks() -> None:
    plan = dc.allocate(profile(), dc.Budget(macs=0.6))
    assert any(choice.rank is not None for choice in plan.asked.values())
    assert plan.cost["macs"] <= 0.6 * profile().macs
    one = dc.apply(tiny.network(), plan, recipe=recipe(), target=tiny.TARGET, calibration=tiny.CALIBRATION)
    assert one.model.macs == plan.cost["macs"]


def test_the_file_holds_two_int8_layers_for_one_and_no_more_bytes_than_predicted() -> None:
    found = file()
    assert found.fused["Conv"][1] == 6
    layers = {layer.name: layer for layer in profile().layers}
    foreseen = profile().fixed_bytes + sum(file_bytes(layers[u], c) for u, c in found.plan.realised.items())
    assert 0.5 * foreseen < len(found.content) <= foreseen
    assert found.macs[1] == small().model.macs < found.macs[0]
    assert {unit: choice.rank for unit, choice in found.plan.realised.items() if choice.rank} == RANKS
    assert found.plan.realised["conv3"].method == "low rank + Mse"
    assert "rank 8, 8 bits" in str(found.plan)


def test_the_divergence_is_near_the_prediction() -> None:
    table = profile().table
    predicted = sum(next(o for o in table[unit] if o.choice.rank == RANKS.get(unit)).distortion for unit in table)
    assert 0.1 * predicted < small().stages["weights"] < 3 * predicted
    assert file().parity.agreement > 0.9


def test_a_plan_with_ranks_and_its_network_are_saved_and_loaded(tmp_path: Path) -> None:
    assert plan_from_toml(plan_to_toml(small().plan)) == replace(small().plan, notes=())
    save_compressed(small(), tmp_path)
    x = torch.from_numpy(tiny.HELD_OUT[0][:16])
    with torch.no_grad():
        torch.testing.assert_close(load(tiny.Tiny, tmp_path)(x), small().module(x), rtol=0, atol=0)


def test_layers_after_a_split_compensate_for_it() -> None:
    """Each layer is fitted to the original's output from the factors' outputs; truncation alone shifts the means."""
    model = tiny.task(tiny.network(), recipe(), tiny.CALIBRATION).model
    truncated = []
    for name, observation in model.observe((Weight(),)):
        if name in RANKS:
            left, values, right = torch.linalg.svd(observation[Weight()].flatten(1), full_matrices=False)
            product = (left[:, : RANKS[name]] * values[: RANKS[name]]) @ right[: RANKS[name]]
            truncated.append(SetWeight(name, product.reshape(observation[Weight()].shape)))
    x = {"x": torch.from_numpy(tiny.CALIBRATION)}
    means, fitted, cut = (m.predict(x)[0].mean(0) for m in (model, small().model, model.edited(truncated)))
    assert (fitted - means).norm() < 0.2 * (cut - means).norm()


def test_without_data_ranks_follow_from_the_weights_alone() -> None:
    free = load_recipe("heavy-tail", {"channels.ranks": [0.5], "prune.sparsities": [0.0], "quantize.weight_bits": [8]})
    found = dc.measure(tiny.network(), free, target=tiny.TARGET, example=tiny.CALIBRATION[:4])
    plan = dc.allocate(found, dc.Budget(macs=0.8), recipe=free)
    assert any(choice.rank for choice in plan.asked.values())
    one = dc.apply(tiny.network(), plan, recipe=free, target=tiny.TARGET, example=tiny.CALIBRATION[:4])
    assert dc.export(one).macs[1] <= 0.8 * found.macs


def test_a_lower_rank_is_tried_only_if_it_saves() -> None:
    layer, dense = Layer("l", "linear", (40, 60), 2400), (Choice(weight_bits=8), Choice(weight_bits=4), Choice(sparsity=0.5))
    found = choices_by_rank(layer, replace(recipe(), ranks=(0.9, 0.5, 0.25, 0.001)), dense[:2])
    assert [(c.rank, c.weight_bits) for c in found] == [(20, 8), (20, 4), (10, 8), (10, 4), (1, 8), (1, 4)]
    assert [half.shape for half in halves(layer, 10)] == [(10, 60), (40, 10)]
    assert [half.macs for half in halves(layer, 10)] == [600, 400]
    kept = worth_trying(layer, (*dense[:2], *found), lambda _, c: 9.0 if c.rank == 20 else 10.0 - (c.weight_bits == 4))
    assert kept == (dense[0], dense[1], found[0]), "others take no fewer bytes than something milder"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"channels.ranks": [1.5]}, r"channels\.ranks holds 1\.5; shares in \(0, 1\)"),
        ({"channels.ranks": [0.5], "channels.keeps": [0.5]}, "ranks are chosen beside zeros and widths alone"),
        ({"channels.ranks": [0.5], "channels.blocks": True}, "ranks are chosen beside zeros and widths alone"),
    ],
)
def test_invalid_ranks_are_refused(changed: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        load_recipe("edge-int8", changed)


def test_rules_for_sparsity_and_bits_refuse_ranks() -> None:
    for name in ("erk", "equal_share", "depth_linear"):
        with pytest.raises(InvalidRequest, match=rf"allocator {name}: .*lower ranks; leave channels\.ranks"):
            dc.allocate(profile(), dc.Budget(macs=0.7), recipe=replace(recipe(), allocator=RULES[name]()))
    plan = dc.allocate(profile(), dc.Budget(macs=0.7), recipe=replace(recipe(), allocator=RULES["equal_error"]()))
    assert plan.cost["macs"] <= 0.7 * profile().macs
